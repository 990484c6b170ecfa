"""A red job of a server that answers as GitLab does, run here: real git, real client, real containers."""

import io
import json
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from loom.snapshot import occupied
from tests.docker.run.test_github_actions import REAL, SHARED
from tests.support.ci_server import Reply, Stub, gitlab_job, gitlab_project, serving
from tests.support.loom_process import run_loom
from tests.unit.analysis.test_server_log import gitlab

pytestmark = pytest.mark.docker

AT = "/api/v4/projects/group%2Fproject"
TOKEN = "glpat-of-the-user"
MASKED = "value-that-nobody-reads"
WORKFLOW = """
default: {image: debian:trixie-slim}
stages: [build, test]
build:
  stage: build
  script: [mkdir dist, echo built here > dist/app, echo VERSION=7 > build.env]
  artifacts: {paths: [dist, build.env], reports: {dotenv: build.env}}
unit:
  stage: test
  needs: [build]
  script:
    - echo "level $LEVEL of $PLAIN, version $VERSION, ${#SECRET}"
    - cat dist/app
    - test "$MODE" = good
"""
LOG = """$ echo "level $LEVEL of $PLAIN, version $VERSION, ${#SECRET}"
level debug of 1, version 7, 23
$ cat dist/app
from the server
$ test "$MODE" = good"""


@dataclass
class Case:
    stub: Stub
    checkout: Path
    environ: dict[str, str]

    def git(self, *words: str) -> str:
        who = ("-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "init.defaultBranch=main")
        return subprocess.run(
            ["git", *who, *words], cwd=self.checkout, env=self.environ, check=True, stdout=subprocess.PIPE, text=True
        ).stdout.strip()

    def commit(self, *words: str) -> str:
        self.git("add", "-A")
        self.git("commit", "--quiet", "-m", "one", *words)
        return self.git("rev-parse", "HEAD")

    def reproduce(self, *words: str, code: int = 1) -> dict[str, Any]:
        url = f"{self.stub.url}/group/project/-/jobs/12"
        done = run_loom(
            ("reproduce", url, "--trust", "--keep", "never", "--json", *words), cwd=self.checkout, environ=self.environ
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert MASKED not in done.stdout + done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def log(self, text: str, end: str = "exit code 1", *, untold: str = "\0") -> None:
        """Serve the trace, without what it does not tell."""
        trace = gitlab(text, end).replace("python:3.12", "other:1").replace(untold, "")
        trace = trace.replace("1ecfd275", self.git("rev-parse", "HEAD")[:8])
        self.stub.routes[f"{AT}/jobs/12/trace"] = Reply(trace.encode())


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    checkout, home = tmp_path / "checkout", tmp_path / "home"
    checkout.mkdir()
    home.mkdir()
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), "GIT_CONFIG_GLOBAL": os.devnull, "LC_ALL": "C.UTF-8"}
    environ |= {name: os.environ[name] for name in ("DOCKER_HOST",) if name in os.environ}

    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr("dist/app", "from the server\n")
        files.writestr("build.env", "VERSION=7\n")
    with serving() as stub:
        found = Case(stub, checkout, {**environ, "GITLAB_HOST": stub.url, "GITLAB_TOKEN": TOKEN})
        found.git("init", "--quiet")
        (checkout / ".gitlab-ci.yml").write_text(WORKFLOW)
        sha = found.commit()
        (checkout / ".gitlab-ci.yml").write_text("work in progress")
        commit = {"commit": {"id": sha}}
        built = gitlab_job(11, "build", "success", artifacts_file={"filename": "artifacts.zip", "size": 1}, **commit)
        gitlab_project(stub, [built, gitlab_job(12, "unit", **commit)])
        stub.routes[f"{AT}/jobs/11/artifacts"] = Reply(archive.getvalue(), headers={"Content-Type": "application/zip"})
        stub.routes[f"{AT}/pipelines/7/variables"] = Reply([{"key": "LEVEL", "value": "debug"}])
        stub.routes[f"{AT}/variables"] = Reply(
            [
                {"key": "PLAIN", "value": "1"},
                {"key": "SECRET", "value": MASKED, "masked": True},
                {"key": "HIDDEN", "value": None, "masked": True, "hidden": True},
                {"key": "MODE", "value": "good", "protected": True},
            ]
        )
        found.log(LOG)
        yield found


def test_same_failure_here(case: Case) -> None:
    """With the server's artifacts, variables and dotenv; the checkout, the secret and protected variables stay where they are."""
    found = case.reproduce()
    assert (found["verdict"], found["parting"]) == ("reproduced", None), found
    assert "MODE" in next(note for note in found["notes"] if "protected" in note)
    assert [each["name"] for each in found["differs"]] == ["variable HIDDEN", "runner"]
    assert (case.checkout / ".gitlab-ci.yml").read_text() == "work in progress"
    state = Path(case.environ["HOME"], ".local/state/loom/runs", found["run_id"])
    receipt = json.loads(next(state.glob("receipts/*.json")).read_text())
    assert receipt["origin"] == found["origin"]
    assert receipt["extent"]["ran"] == ["unit"]
    kept = [path for path in Path(case.environ["HOME"]).rglob("*") if path.is_file()]
    assert not any(MASKED.encode() in path.read_bytes() or TOKEN.encode() in path.read_bytes() for path in kept)


def test_checkout_goes_with_the_last_workspace_of_its_runs(case: Case) -> None:
    case.environ["LOOM_AUTO_CLEAN"] = "false"  # this test cleans alone
    found = case.reproduce()
    folder = next(Path(case.environ["HOME"], ".cache/loom/reproductions").iterdir())

    def cleaned(*words: str) -> set[str]:
        done = run_loom(("clean", "--json", *words), cwd=case.checkout, environ=case.environ)
        return {each["name"] for each in json.loads(done.stdout)["items"] if each["removed"]}

    assert (cleaned(), folder.exists()) == (set(), True)
    with occupied(folder):
        assert (cleaned("--all", "--keep-last", "0"), folder.exists()) == ({found["run_id"]}, True)
    assert (cleaned(), folder.exists()) == ({str(folder)}, False)
    found = case.reproduce("--keep", "always")
    assert (cleaned("--all", "--keep-last", "0"), folder.exists()) == ({found["run_id"], str(folder)}, False)


def test_passes_here_and_the_logs_part(case: Case) -> None:
    case.log(LOG.replace("from the server", "another file"))
    found = case.reproduce("--var", "MODE=good", code=0)
    assert found["verdict"] == "passes-here"
    assert found["parting"] == {
        "command": "cat dist/app",
        "line": 1,
        "there": "another file",
        "here": "from the server",
    }
    assert [each["kind"] for each in found["reasons"]] == ["variable"]
    assert "unknown: its time zone and locale" in found["notes"]
    assert {"name": "variable MODE", "a": None, "b": "given by --var"} in found["differs"]


CHECK = """#!/bin/sh
test "$TZ" != Asia/Tokyo && test "$LANG" != tr_TR && test "$(nproc)" -gt 1 &&
! cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null | grep -qx 268435456 &&
test -e /sys/class/net/eth0 && test "$(id -u)" = 0 && test ! -e .git/shallow && ! command -v git >/dev/null &&
test "$MODE" != good && test -n "$PLAIN" && grep -q second dist/app
"""
PLANTED = {
    "TZ=Asia/Tokyo": True,
    "LANG=tr_TR": True,
    "cpus=1": True,
    "memory=256MB": True,
    "network=none": True,
    "user=1000": True,
    "depth=1": True,
    "image=loom/base:latest": True,
    "MODE=good": True,
    "unset=PLAIN": True,
    "order=other,build": True,
    "order=build,other": False,
    "TZ=UTC": False,
    "unset=SECRET": False,
}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor can't be hidden")
def test_the_fact_that_decides_is_found_by_trial(case: Case) -> None:
    """The job passes here; with one fact at a time as it was there, it fails as there, though a job before it reports some."""
    jobs = "other: {stage: build, script: [exit 9], artifacts: {paths: [dist]}}\nunit:\n  variables: {MODE: bad}\n"
    lines = WORKFLOW.replace("unit:\n", jobs).replace("[build]\n", "[build, other]\n").partition("    - echo")[0]
    (case.checkout / ".gitlab-ci.yml").write_text(f"{lines}    - sh ./check\n")
    (case.checkout / "check").write_text(CHECK)
    case.commit()
    commit = {"commit": {"id": case.commit("--allow-empty")}}
    made = {"artifacts_file": {"filename": "artifacts.zip", "size": 1}, **commit}
    before = [gitlab_job(11, "build", "success", **made), gitlab_job(10, "other", "success", **made)]
    gitlab_project(case.stub, [*before, gitlab_job(12, "unit", **commit)])
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr("dist/app", "second\n")
    case.stub.routes[f"{AT}/jobs/10/artifacts"] = Reply(archive.getvalue())
    case.log("$ sh ./check", untold=" with git depth set to 20")
    found = case.reproduce(*(word for fact in PLANTED for word in ("--try", fact)), code=0)
    assert (found["verdict"], found["differs"][0]["name"]) == ("passes-here", "variable HIDDEN")
    assert {one["fact"]: one["decides"] for one in found["trials"]} == PLANTED, found


@pytest.mark.parametrize(("in_log", "last"), [("", "HEAD~1"), (" with git depth set to 1", "HEAD")])
def test_the_clone_is_as_deep_as_the_log_tells_or_else_the_project(case: Case, in_log: str, last: str) -> None:
    lines = WORKFLOW.partition("    - echo")[0]
    (case.checkout / ".gitlab-ci.yml").write_text(f"{lines}    - test $LAST = $(cat .git/shallow)\n")
    case.commit()
    sha = case.commit("--allow-empty")
    job = gitlab_job(12, "unit", commit={"id": sha})
    gitlab_project(case.stub, [gitlab_job(11, "build", "success", commit={"id": sha}), job], ci_default_git_depth=2)
    case.log("$ test", untold=" with git depth set to 20")
    trace = case.stub.routes[f"{AT}/jobs/12/trace"].body.replace(
        b"Fetching changes", b"Fetching changes" + in_log.encode()
    )
    case.stub.routes[f"{AT}/jobs/12/trace"] = Reply(trace)
    found = case.reproduce("--var", f"LAST={case.git('rev-parse', last)}", code=0)
    assert found["verdict"] == "passes-here"


def test_another_failure(case: Case) -> None:
    case.log(f"{LOG.partition('$ cat')[0]}$ cat dist/app\ncat: dist/app: No such file or directory")
    found = case.reproduce()
    assert found["verdict"] == "another-failure"
    assert "cat: dist/app" in found["text"]


def test_job_that_may_fail_is_compared_like_any_other(case: Case) -> None:
    (case.checkout / ".gitlab-ci.yml").write_text(WORKFLOW.replace("unit:\n", "unit:\n  allow_failure: true\n"))
    job = gitlab_job(12, "unit", commit={"id": case.commit()})
    case.stub.routes[f"{AT}/jobs/12"] = Reply(job)
    found = case.reproduce(code=0)
    assert (found["verdict"], found["here"]["exit_code"]) == ("reproduced", 1), found


def test_end_inside_an_entry_of_the_script_is_the_same_failure(case: Case) -> None:
    entry = '[ "$MODE" = good ] || { echo MODE is not set; exit 1; }'
    (case.checkout / ".gitlab-ci.yml").write_text(WORKFLOW.replace('test "$MODE" = good', f"'{entry}'"))
    case.stub.routes[f"{AT}/jobs/12"] = Reply(gitlab_job(12, "unit", commit={"id": case.commit()}))
    case.log(f"{LOG.rpartition('$ ')[0]}$ {entry}\nMODE is not set")
    found = case.reproduce()
    assert (found["verdict"], found["parting"]) == ("reproduced", None), found
    assert found["reasons"] == []


def test_artifacts_that_have_expired_are_named(case: Case) -> None:
    case.stub.routes[f"{AT}/jobs/11/artifacts"] = Reply({"message": "404 Not Found"}, 404)
    found = case.reproduce()
    assert {"name": "artifacts of build", "a": "present", "b": None} in found["differs"]
    assert found["here"]["command"] == "cat dist/app"


def test_last_red_job_of_the_branch(case: Case) -> None:
    origin = f"{case.stub.url}/group/project.git"
    case.git("remote", "add", "origin", origin)
    case.stub.routes[f"{AT}/pipelines"] = lambda query: Reply(
        [{"id": 7, "status": "failed"}] if (query["ref"], query["status"]) == ("main", "failed") else []
    )
    done = run_loom(
        ("reproduce", "--last", "--trust", "--keep", "never", "--json"), cwd=case.checkout, environ=case.environ
    )
    assert json.loads(done.stdout)["verdict"] == "reproduced", done.stderr


GITHUB_WORKFLOW = """
on: push
jobs:
  test:
    runs-on: ubuntu-latest
    container: debian:trixie-slim
    strategy: {matrix: {v: [1, 2]}}
    steps:
      - run: echo start
      - name: the tests
        run: |
          echo "value ${{ vars.LEVEL }} ${{ matrix.v }}"
          ls dist/missing
"""
GITHUB_LOG = """##[group]Run echo start
##[endgroup]
start
##[group]Run echo "value debug 2"
\x1b[36;1mecho "value debug 2"\x1b[0m
##[endgroup]
value debug 2
ls: cannot access 'dist/missing': No such file or directory
##[error]Process completed with exit code 2."""


def serve_github(case: Case, workflow: str, log: str, name: str, *, run_has: dict[str, Any] | None = None) -> None:
    """Serve a run of o/r with this red job."""
    path = case.checkout / ".github/workflows/ci.yml"
    path.parent.mkdir(parents=True)
    path.write_text(workflow)
    (case.checkout / ".gitlab-ci.yml").unlink()
    job, run = "/api/v3/repos/o/r/actions/jobs/2", "/api/v3/repos/o/r/actions/runs/1"
    about = {"id": 2, "run_id": 1, "name": name, "status": "completed", "conclusion": "failure", "html_url": None}
    about |= {
        "head_sha": case.commit(),
        "head_branch": "main",
        "labels": ["ubuntu-latest"],
        "url": case.stub.url + job,
        "steps": [],
        "started_at": "2026-01-01T10:00:00Z",
    }
    case.stub.routes |= {
        job: Reply(about),
        f"{job}/logs": Reply(b"", 302, {"Location": f"{case.stub.url}/store"}),
        "/store": Reply("".join(f"2026-01-01T10:00:00.1234567Z {line}\n" for line in log.splitlines()).encode()),
        run: Reply(
            {
                "id": 1,
                "url": case.stub.url + run,
                "event": "push",
                "path": ".github/workflows/ci.yml",
                **(run_has or {}),
            }
        ),
        f"{run}/jobs": Reply({"total_count": 1, "jobs": [about]}),
        "/api/v3/repos/o/r/actions/variables": Reply({"variables": [{"name": "LEVEL", "value": "debug"}]}),
    }


def of_github(
    case: Case, workflow: str, log: str, name: str, *words: str, run_has: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Reproduce a job of o/r, whose other jobs are green."""
    serve_github(case, workflow, log, name, run_has=run_has)
    command = ("reproduce", f"{case.stub.url}/o/r/actions/runs/1/job/2", "--keep", "never", "--json", *words)
    done = run_loom(command, cwd=case.checkout, environ={**case.environ, "GH_HOST": case.stub.url, "GH_TOKEN": TOKEN})
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("written", ["[1, 2]", "'${{ fromJSON(needs.list.outputs.v) }}'"])
def test_job_of_a_matrix_on_github(case: Case, written: str) -> None:
    """Of one that another job tells, too."""
    workflow = GITHUB_WORKFLOW.replace("[1, 2]", written)
    if written != "[1, 2]":
        first = "  list: {runs-on: ubuntu-latest, outputs: {v: x}, steps: [{run: exit 9}]}\n"
        late = "strategy: {matrix: {x: '${{ fromJSON(needs.list.outputs.none) }}'}}"
        first += f"  more: {{needs: list, runs-on: ubuntu-latest, {late}, steps: [{{run: exit 9}}]}}\n"
        other = f"{first}  test:\n    needs: [list, more]"
        workflow = workflow.replace("  test:", other)
    found = of_github(case, workflow, GITHUB_LOG, "test (2)", "--var", "needs.list.outputs.v=[1, 2]")
    assert (found["verdict"], found["job_id"], found["parting"]) == ("reproduced", "test.2", None), found
    assert found["here"]["findings"][0]["name"] == "ls: cannot access 'dist/missing': No such file or directory"


def test_a_variable_of_the_workflow_or_of_a_step_is_tried_on_github(case: Case) -> None:
    check = 'test "$A" = 1 && test "$B" = 1 && test -n "$B"'
    step = f"      - {{env: {{B: '1'}}, run: '{check}'}}\n"
    workflow = f"{GITHUB_WORKFLOW.partition('    strategy')[0]}    env: {{A: '1'}}\n    steps:\n{step}"
    log = f"##[group]Run {check}\n##[endgroup]\n##[error]Process completed with exit code 1."
    tries = {"A=2": True, "B=2": True, "unset=B": True, "B=1": False}
    found = of_github(case, workflow, log, "test", *(word for fact in tries for word in ("--try", fact)))
    assert {one["fact"]: one["decides"] for one in found["trials"]} == tries, found


def test_last_red_run_of_an_enterprise_server(case: Case) -> None:
    """`gh` knows the host, and has the token."""
    serve_github(case, GITHUB_WORKFLOW, GITHUB_LOG, "test (2)")
    (case.checkout / ".gitlab-ci.yml").write_text(WORKFLOW)
    case.git("remote", "add", "origin", f"{case.stub.url}/o/r.git")
    hosts = Path(case.environ["HOME"], ".config/gh/hosts.yml")
    hosts.parent.mkdir(parents=True)
    hosts.write_text(f"{json.dumps(case.stub.url.partition('//')[2])}: {{oauth_token: of-gh}}")
    run = f"{case.stub.url}/api/v3/repos/o/r/actions/runs/1"
    case.stub.routes["/api/v3/repos/o/r/actions/runs"] = lambda query: Reply(
        {"total_count": 1, "workflow_runs": [{"id": 1, "url": run}] if query["status"] == "failure" else []}
    )
    command = ("reproduce", "--last", "--keep", "never", "--json")
    environ = {name: value for name, value in case.environ.items() if "TOKEN" not in name}
    done = run_loom(command, cwd=case.checkout, environ=environ)
    assert json.loads(done.stdout)["verdict"] == "reproduced", done.stderr
    assert "of-gh" in case.stub.asked[-1][1].get("authorization", "")


TAKING = """
on: push
jobs:
  build:
    runs-on: ubuntu-latest
    container: debian:trixie-slim
    outputs: {version: 7, level: low}
    steps:
      - run: exit 9
  test:
    needs: build
    runs-on: ubuntu-latest
    container: debian:trixie-slim
    env: {VERSION: "${{ needs.build.outputs.version }}"}
    steps:
      - uses: actions/download-artifact@v4
        with: {name: app, path: got}
      - run: |
          cat got/app; echo "of $VERSION at ${{ needs.build.outputs.level }}"
          false
"""
TAKING_LOG = """##[group]Run actions/download-artifact@v4
with:
  name: app
env:
  VERSION: 8
##[endgroup]
##[group]Run cat got/app; echo "of $VERSION at high"
\x1b[36;1mcat got/app; echo "of $VERSION at high"\x1b[0m
##[endgroup]
from the server
of 8 at high
##[error]Process completed with exit code 1."""


def test_outputs_and_artifacts_of_earlier_jobs_on_github(case: Case, tmp_path: Path) -> None:
    """Of the log and the server; the jobs do not run again."""
    if not (actions := next((each for each in (REAL, SHARED) if each.exists()), None)):
        pytest.skip("there is no ../shared/actions")
    with tarfile.open(actions) as packed:
        packed.extractall(tmp_path / "server", filter="data")
    config = Path(case.environ["HOME"], ".config/loom/config.yml")
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps({"github": {"server": f"file://{tmp_path}/server"}}))
    archive, at = io.BytesIO(), "/api/v3/repos/o/r/actions"
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr("app", "from the server\n")
    listed = [
        {"id": 5, "name": "app", "expired": False, "created_at": "2026-01-01T09:59:00Z"},
        {"id": 6, "name": "report", "expired": True, "created_at": "2026-01-01T10:01:00Z"},
    ]
    case.stub.routes |= {
        f"{at}/runs/1/artifacts": Reply({"total_count": 2, "artifacts": listed}),
        f"{at}/artifacts/5/zip": Reply(b"", 302, {"Location": f"{case.stub.url}/archive"}),
        "/archive": Reply(archive.getvalue()),
    }
    found = of_github(case, TAKING, TAKING_LOG, "test")
    assert (found["verdict"], found["parting"]) == ("reproduced", None), found
    assert not any("outputs" in note or "artifact" in note for note in found["notes"])


def test_job_that_the_commit_does_not_have(case: Case) -> None:
    job = gitlab_job(12, "other [job]")
    sha = case.git("rev-parse", "HEAD")
    case.stub.routes[f"{AT}/jobs/12"] = Reply({**job, "commit": {"id": sha}})
    done = run_loom(("reproduce", f"{case.stub.url}/group/project/-/jobs/12"), cwd=case.checkout, environ=case.environ)
    assert done.returncode == 2
    assert "other" in done.stderr


def test_one_of_several_with_the_artifacts_of_several(case: Case) -> None:
    """`unit 2/3` gets what `mk 1/2` and `mk 2/2` left; of a file with another name than usual."""
    (case.checkout / "ci").mkdir()
    (case.checkout / "ci/main.yml").write_text(
        """
default: {image: debian:trixie-slim}
mk: {stage: build, parallel: 2, script: [exit 9], artifacts: {paths: [out]}}
unit: {stage: test, parallel: 3, needs: [mk], script: ['echo "$CI_NODE_INDEX of $CI_NODE_TOTAL"', cat out/1 out/2 none]}
"""
    )
    (case.checkout / ".gitlab-ci.yml").write_text("unit: {script: [exit 3]}")
    commit = {"commit": {"id": case.commit()}}
    makers = [
        gitlab_job(number, f"mk {number}/2", "success", artifacts_file={"filename": "a.zip", "size": 1}, **commit)
        for number in (1, 2)
    ]
    gitlab_project(case.stub, [*makers, gitlab_job(12, "unit 2/3", **commit)], ci_config_path="ci/main.yml")
    for number in (1, 2):
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as files:
            files.writestr(f"out/{number}", f"from {number}\n")
        case.stub.routes[f"{AT}/jobs/{number}/artifacts"] = Reply(archive.getvalue())
    case.log(
        '$ echo "$CI_NODE_INDEX of $CI_NODE_TOTAL"\n2 of 3\n$ cat out/1 out/2 none\nfrom 1\nfrom 2\n'
        "cat: none: No such file or directory"
    )
    log = case.stub.routes[f"{AT}/jobs/12/trace"]
    assert isinstance(log, Reply)
    log.body = log.body.replace(b"Checking out", b"Updating/initializing submodules...\nChecking out")
    found = case.reproduce()
    assert (found["verdict"], found["parting"], found["job_id"]) == ("reproduced", None, "unit.2"), found
    assert "submodules" in {each["name"] for each in found["differs"]}  # of which the file says nothing


def test_job_of_a_child_pipeline(case: Case) -> None:
    """Of a file that a job of the pipeline above wrote."""
    (case.checkout / ".gitlab-ci.yml").write_text(
        """
generate: {stage: build, image: debian:trixie-slim, script: [exit 9], artifacts: {paths: [made.yml]}}
child:
  stage: test
  variables: {COLOUR: green}
  trigger: {strategy: depend, include: [{artifact: made.yml, job: generate}]}
"""
    )
    commit = {"commit": {"id": case.commit()}}
    generated = gitlab_job(11, "generate", "success", artifacts_file={"filename": "artifacts.zip", "size": 1}, **commit)
    gitlab_project(case.stub, [generated])
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr(
            "made.yml",
            'inner: {image: debian:trixie-slim, script: [\'echo "$COLOUR $CI_PIPELINE_SOURCE"\', "false"]}\n',
        )
    case.stub.routes |= {
        f"{AT}/jobs/11/artifacts": Reply(archive.getvalue()),
        f"{AT}/jobs/12": Reply(gitlab_job(12, "inner", pipeline={"id": 8}, **commit)),
        f"{AT}/pipelines": Reply([{"id": 7, "source": "push"}]),
        f"{AT}/pipelines/8": Reply({"id": 8, "source": "parent_pipeline"}),
        f"{AT}/pipelines/8/jobs": Reply([gitlab_job(12, "inner", pipeline={"id": 8}, **commit)]),
        f"{AT}/pipelines/7/bridges": Reply(
            [{"id": 3, "name": "child", "status": "failed", "downstream_pipeline": {"id": 8, "project_id": 1}}]
        ),
    }
    case.log('$ echo "$COLOUR $CI_PIPELINE_SOURCE"\ngreen parent_pipeline\n$ false')
    found = case.reproduce()
    assert (found["verdict"], found["parting"], found["job_id"]) == ("reproduced", None, "inner"), found


@pytest.mark.parametrize("is_there", [True, False])
def test_job_of_a_pull_request_runs_on_the_merge_that_its_log_names(case: Case, *, is_there: bool) -> None:
    case.git("branch", "-m", "main")
    case.git("stash", "--quiet")
    case.git("checkout", "--quiet", "-b", "merged")
    workflow = """
on: pull_request
jobs:
  test:
    runs-on: ubuntu-latest
    container: debian:trixie-slim
    steps:
      - uses: actions/checkout@v4
      - run: |
          echo "$GITHUB_REF to $GITHUB_BASE_REF, ${{ github.event.pull_request.draft }}"
          ls of-the-merge
"""
    path = case.checkout / ".github/workflows/ci.yml"
    path.parent.mkdir(parents=True)
    path.write_text(workflow)
    (case.checkout / ".gitlab-ci.yml").unlink()
    (case.checkout / "of-the-merge").touch()
    merge = case.commit() if is_there else "0123456789" * 4
    case.git("checkout", "--quiet", "-f", "main")
    case.git("clean", "-fdq")
    log = f"""##[group]Run actions/checkout@v4
##[command]/usr/bin/git -c protocol.version=2 fetch --depth=1 origin +{merge}:refs/remotes/pull/5/merge
##[endgroup]
##[group]Run echo "$GITHUB_REF to $GITHUB_BASE_REF, true"
\x1b[36;1mecho "$GITHUB_REF to $GITHUB_BASE_REF, true"\x1b[0m
##[endgroup]
refs/pull/5/merge to stable, true
of-the-merge
##[error]Process completed with exit code 1."""
    ends = {"number": 5, "base": {"ref": "stable"}, "head": {"ref": "topic"}, "draft": True}
    found = of_github(case, workflow, log, "test", run_has={"event": "pull_request", "pull_requests": [ends]})
    differs = {each["name"] for each in found["differs"]}
    assert ("commit" in differs, any("not the same commit" in note for note in found["notes"])) == (not is_there,) * 2
    assert found["verdict"] == ("passes-here" if is_there else "another-failure"), found
    state = Path(case.environ["HOME"], ".local/state/loom/runs", found["run_id"])
    extent = json.loads(next(state.glob("receipts/*.json")).read_text())["extent"]
    assert "behind" not in extent, "what is not the same commit is a note"


@pytest.mark.parametrize(("strategy", "files"), [("recursive", "lib/deep/inner lib/own"), ("normal", "lib/own")])
def test_submodules_are_those_of_the_commit(case: Case, tmp_path: Path, strategy: str, files: str) -> None:
    """By the strategy of the job; one of a commit that the user's checkout lacks is fetched from its address."""

    def git(folder: str, *words: str) -> str:
        return case.git("-C", str(tmp_path / folder), "-c", "protocol.file.allow=always", *words)

    def filled(folder: str, file: str) -> None:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / file).write_text("there")
        git(folder, "init", "--quiet")
        git(folder, "add", "-A")
        git(folder, "commit", "--quiet", "-m", file)

    filled("deep", "inner")
    filled("lib", "own")
    git("lib", "submodule", "--quiet", "add", str(tmp_path / "deep"), "deep")
    git("lib", "commit", "--quiet", "-m", "deep")
    git("checkout", "submodule", "--quiet", "add", f"file://{tmp_path}/lib", "lib")
    git("checkout", "submodule", "--quiet", "update", "--init", "--recursive")
    filled("elsewhere", "f")
    git("checkout", "submodule", "--quiet", "add", f"file://{tmp_path}/elsewhere", "elsewhere")
    git("checkout", "submodule", "--quiet", "deinit", "--force", "elsewhere")
    filled("lib", "newer")  # which the checkout of the user does not have yet
    git("checkout", "update-index", "--cacheinfo", f"160000,{git('lib', 'rev-parse', 'HEAD')},lib")
    script = "echo $(find lib elsewhere -type f ! -path '*/.git*' | sort) $(cat lib/newer); false"
    jobs = f"default: {{image: debian:trixie-slim}}\nvariables: {{GIT_SUBMODULE_STRATEGY: {strategy}}}\n"
    (case.checkout / ".gitlab-ci.yml").write_text(f'{jobs}unit: {{script: ["{script}"]}}\n')
    git("checkout", "add", ".gitlab-ci.yml")
    git("checkout", "commit", "--quiet", "-m", "two")
    job = gitlab_job(12, "unit", commit={"id": case.git("rev-parse", "HEAD")})
    gitlab_project(case.stub, [job])
    case.log(f"$ {script}\n{files.replace('lib/own', 'lib/newer lib/own')} there")
    found = case.reproduce()
    assert (found["verdict"], found["parting"]) == ("reproduced", None), found
    missing = [note for note in found["notes"] if "submodule" in note]
    assert [note.split()[3] for note in missing] == ["elsewhere:"], missing


def test_submodules_that_a_checkout_of_github_fetched(case: Case, tmp_path: Path) -> None:
    """By the command in the log: without `--recursive` none of a submodule's own."""
    for folder in ("deep", "lib"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own").write_text(folder)
        case.git("-C", str(tmp_path / folder), "init", "--quiet")
    allowed = ("-c", "protocol.file.allow=always")
    for folder, inner in (("deep", ""), ("lib", "deep"), ("checkout", "lib")):
        if inner:
            case.git(
                "-C", str(tmp_path / folder), *allowed, "submodule", "--quiet", "add", str(tmp_path / inner), inner
            )
        if folder != "checkout":
            case.git("-C", str(tmp_path / folder), "add", "-A")
            case.git("-C", str(tmp_path / folder), "commit", "--quiet", "-m", folder)
    case.git(*allowed, "submodule", "--quiet", "update", "--init", "--recursive")
    script = "echo $(cat lib/own) $(ls lib/deep); false"
    workflow = f"""on: push
jobs:
  test:
    runs-on: ubuntu-latest
    container: debian:trixie-slim
    steps:
      - {{uses: actions/checkout@v4, with: {{submodules: true}}}}
      - run: {script}
"""
    update = "git -c protocol.version=2 submodule update --init --force --depth=1"
    log = f"##[group]Run actions/checkout@v4\nwith:\n  fetch-depth: 1\n##[endgroup]\n[command]/usr/bin/{update}\n"
    log += f"##[group]Run {script}\n##[endgroup]\nlib\n##[error]Process completed with exit code 1."
    found = of_github(case, workflow, log, "test")
    assert (found["verdict"], found["parting"]) == ("reproduced", None), found
    assert not any("submodule" in note for note in found["notes"])
