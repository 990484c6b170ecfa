"""The commonest reasons why a job fails only in CI, each told from the output of the real tools and what differs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from loom.analysis.diff import Pair
from loom.analysis.reasons import Circumstances, reasons
from loom.analysis.server_log import diagnosis_of_log, read_log
from loom.analysis.verdict import Block, parting_of
from loom.plan.model import Artifacts, Job, Need, Plan
from tests.unit.analysis.test_server_log import gitlab

BUILD = Job(id="build", name="build", stage="build", steps=(), provider="docker", artifacts=Artifacts(paths=("dist/",)))
UNIT = Job(id="unit", name="unit", stage="test", steps=(), provider="docker", needs=())
TAKING = Job(id="unit", name="unit", stage="test", steps=(), provider="docker", needs=(Need(job="build"),))
TESTS = "tests/test_a.py::test_one {}\ntests/test_b.py::test_two {}\n"


def told(
    checkout: Path,
    there: str,
    here: str | None = None,
    *differs: Pair,
    code: int = 1,
    job: Job = UNIT,
    withheld: tuple[str, ...] = (),
) -> dict[str, str]:
    """Return the reasons by kind. `there`, `here`: commands with their output; None: it fails here in the same way."""

    def blocks(text: str) -> list[Block]:
        commands = [each.partition("\n") for each in f"\n{text}".split("\n$ ")[1:]]
        return [Block(command, iter(lines.splitlines())) for command, _, lines in commands]

    trace = gitlab(there, f"exit code {code}")
    diagnosis = diagnosis_of_log(read_log([trace.encode()]), "log", root=checkout)
    known = Circumstances(
        checkout=checkout,
        tree=checkout / "tree",
        plan=lambda: Plan(workflow_path=".gitlab-ci.yml", stages=("build", "test"), jobs=(BUILD, job)),
        job=job,
        depth="20",
        withheld=withheld,
        size="2 CPUs, 8 GB",
        here="16 CPUs, 64 GB",
    )
    parting = None if here is None else parting_of(blocks(there), blocks(here))
    kind = "reproduced" if here is None else "passes-here"
    ours = diagnosis if here is None else None
    return {each.kind: each.text for each in reasons(kind, (diagnosis, ours), parting, differs, known)}


@pytest.mark.parametrize(
    ("kind", "says", "there", "here", "differs"),
    [
        (
            "image",
            "the tag",
            "$ python --version\nPython 3.13.9\n$ pytest\nE   AttributeError: module 'ast' has no attribute 'Num'",
            "$ python --version\nPython 3.13.9\n$ pytest\n1 passed",
            [Pair(name="image", a="sha256:aa", b="sha256:bb")],
        ),
        ("variable", "TOKEN", "$ ./deploy\n./deploy: line 3: TOKEN: unbound variable", None, []),
        (
            "variable",
            "DEPLOY_KEY",
            '$ curl -f -H "Key: $DEPLOY_KEY" https://example.org\ncurl: (22) The requested URL returned error: 403',
            '$ curl -f -H "Key: $DEPLOY_KEY" https://example.org\nok',
            [Pair(name="variable DEPLOY_KEY", a="set, hidden", b=None)],
        ),
        ("history", "last 20 commits", "$ git describe\nfatal: No names found, cannot describe anything.", None, []),
        ("history", "last 20 commits", "$ git merge-base main HEAD~30\nfatal: Not a valid object name HEAD~30", None, []),
        ("cache", "cache", "$ make\nmake: *** No rule to make target 'old.o'.  Stop.", "$ make\ncc", [Pair(name="cache", a="restored", b="cold")]),
        ("artifact", "artifact of build, which unit does not take", "$ cat dist/app\ncat: dist/app: No such file or directory", None, []),
        ("machine", "2 CPUs, 8 GB there; 16 CPUs, 64 GB here", "$ node build.js\nFATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory", "$ node build.js\ndone", []),
        ("machine", "`starting 2 workers` there", "$ ./test\nstarting 2 workers\ndeadlock", "$ ./test\nstarting 16 workers\nok", []),
        ("time-zone", "TZ", "$ date\nSat Nov 28 22:48:00 CET 2026\n$ ./test\nwrong day", "$ date\nSat Nov 28 21:48:00 UTC 2026\n$ ./test\nok", []),
        ("time-zone", "TZ", "$ pytest\nE   AssertionError: assert '2026-03-29 03:30' == '2026-03-29 02:30'", None, []),
        ("order", "seed 42 there, 7 here", "$ pytest\nUsing --randomly-seed=42\nE  assert 1 == 2", "$ pytest\nUsing --randomly-seed=7\n1 passed", []),
        (
            "order",
            "another order",
            "$ pytest -v\ntests/test_b.py::test_two PASSED\ntests/test_a.py::test_one FAILED\nE  assert 1 == 2",
            f"$ pytest -v\n{TESTS.format('PASSED', 'PASSED')}",
            [],
        ),
        ("variable", "API_URL", "$ ./deploy\n./deploy: line 2: API_URL: must be set", None, []),
        ("variable", "SECRET_KEY", '$ rails t\nKeyError: key not found: "SECRET_KEY"', None, []),
        ("variable", "DATABASE_URL", "$ npx prisma migrate\nError: Environment variable not found: DATABASE_URL.", None, []),
        ("history", "last 20 commits", "$ echo $(git rev-list --count HEAD) commits; false\n20 commits", None, []),
        ("artifact", "of build", "$ java -jar dist/app.jar\nError: Unable to access jarfile dist/app.jar", None, []),
        ("artifact", "of build", "$ docker build .\nERROR: failed to compute cache key: \"/dist/app\": not found", None, []),
        ("artifact", "of build", "$ ruby a.rb\na.rb:1: No such file or directory @ rb_sysopen - dist/app (Errno::ENOENT)", None, []),
        ("time-zone", "TZ", '$ jest\n    Expected: "2026-03-29T01:30:00Z"\n    Received: "2026-03-29T00:30:00Z"', "$ jest\nok", []),
        ("order", "another order", "$ go test -v\n=== RUN   TestB\n--- FAIL\n=== RUN   TestA", "$ go test -v\n=== RUN   TestA\n=== RUN   TestB", []),
        ("order", "another order", "$ mvn test\nRunning BTest\n[ERROR] x\nRunning ATest", "$ mvn test\nRunning ATest\nRunning BTest", []),
        ("network", "different hosts", "$ go test\ndial tcp: lookup db on 10.0.0.10:53: no such host", "$ go test\nok", []),
        ("network", "different hosts", "$ pip install x\nWARNING: Retrying: Temporary failure in name resolution\nERROR: no version of x", "$ pip install x\nok", []),
        ("network", "db.internal was not resolved", "$ curl -f http://db.internal/\ncurl: (6) Could not resolve host: db.internal", "$ curl -f http://db.internal/\nok", []),
    ],
)  # fmt: skip
def test_reason(tmp_path: Path, kind: str, says: str, there: str, here: str | None, differs: list[Pair]) -> None:
    code = {"curl: (6)": 6, "fatal: N": 128, "curl: (22)": 22}
    found = told(tmp_path, there, here, *differs, code=next((code[each] for each in code if each in there), 1))
    assert says in found.get(kind, ""), found


def test_protected_variable_that_the_branch_does_not_get(tmp_path: Path) -> None:
    found = told(tmp_path, "$ ./deploy\ndeploy: set TARGET first", withheld=("TARGET",))
    assert found["variable"].startswith("TARGET is protected")


def test_artifact_that_the_command_reads_may_differ(tmp_path: Path) -> None:
    found = told(tmp_path, "$ cmp dist/app expected\nthey differ", "$ cmp dist/app expected", job=TAKING)
    assert found == {"artifact": "dist/app is an artifact of build, and may differ"}


@pytest.mark.parametrize("ignored", [True, False])
def test_file_that_the_checkout_has_and_the_commit_has_not(tmp_path: Path, ignored: bool) -> None:
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_CONFIG_GLOBAL": os.devnull}
    (tmp_path / ".gitignore").write_text("*.local\n" if ignored else "")
    who = ("-c", "user.name=n", "-c", "user.email=n@example.org")
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "one")):
        subprocess.run(["git", *who, *words], check=True, env=environ, cwd=tmp_path)
    (tmp_path / "config.local").write_text("x")
    found = told(tmp_path, "$ cat config.local\ncat: config.local: No such file or directory")
    assert "git ignores it" in found["ignored-file"] if ignored else "not in the commit" in found["ignored-file"]


@pytest.mark.parametrize(
    ("there", "here"),
    [
        ("$ pytest\nE  AssertionError: at 10:00 there is nothing", None),
        ("$ pytest\nseed 42, 3 tests\nE  assert 1 == 2", "$ pytest\nseed 42, 4 tests\n4 passed"),
        ("$ cmp dist/app expected\nthey differ", "$ cmp dist/app expected"),
        ("$ make\ncc -c a.c\na.c:10:12: error: expected identifier, as in b.h:20:34", None),
        ("$ ./test\n10:00 GET /a\nwrong", "$ ./test\n10:00 PUT /a\nok"),
        ("$ t\nERROR: missing semicolon", None),
        ("$ t\njava.io.FileNotFoundException, as expected", None),
        ("$ go test\n    a_test.go:3: got 10:03:12, want 10:03:19", None),
        ('$ jest\n  Expected: "10:03"\n  Received: "10:08"', None),
        ("$ git commit\n120 files", None),
        ("$ make\ngot 12.1 MB\nwrong answer", "$ make\ngot 12.4 MB\nok"),
        ("$ ./test\nat 10:00:01 started\nwrong answer 3", "$ ./test\nat 11:30:09 started\nok"),
        (f"$ pytest -v\n{TESTS.format('PASSED', 'FAILED')}", f"$ pytest -v\n{TESTS.format('PASSED', 'PASSED')}"),
    ],
)
def test_failure_without_a_known_reason_is_given_none(tmp_path: Path, there: str, here: str | None) -> None:
    assert told(tmp_path, there, here) == {}


def test_differences_are_no_reason_of_what_fails_on_both_sides(tmp_path: Path) -> None:
    differs = [Pair(name="image", a="sha256:aa", b="sha256:bb"), Pair(name="cache", a="restored", b="cold")]
    assert told(tmp_path, "$ make\nwrong", None, *differs) == {}


@pytest.mark.parametrize(
    ("job", "says"),
    [
        (Job(id="unit", name="unit", stage="test", steps=(), provider="docker"), "which was not available"),
        (Job(id="lint", name="lint", stage="build", steps=(), provider="docker"), "which lint does not take"),
        (BUILD, ""),
    ],
)
def test_missing_artifact_is_of_an_earlier_stage_or_not_taken(tmp_path: Path, job: Job, says: str) -> None:
    found = told(tmp_path, "$ cat dist/app\ncat: dist/app: No such file or directory", job=job)
    assert says in found.get("artifact", "")
    assert ("artifact" in found) is bool(says)


def test_file_of_the_commit_is_not_one_of_the_checkout_alone(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "tree"):
        folder.mkdir(exist_ok=True)
        (folder / "config").touch()
    assert "ignored-file" not in told(tmp_path, "$ cat config\ncat: config: No such file or directory")


def test_order_of_tests_is_looked_for_after_the_parting(tmp_path: Path) -> None:
    trace = "".join(f"  frame of {'x' * number}\n" for number in range(60))
    there = f"$ t\ntest_a FAILED\n{trace}test_c ok\ntest_b ok"
    assert "order" in told(tmp_path, there, "$ t\ntest_a ok\ntest_b ok\ntest_c ok")
