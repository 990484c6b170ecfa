"""A new provider is a module and a line in the table: all of loom works on one that no other file knows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from tests.support.repository import commit_all

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
ONE_LINE = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
from loom import providers
providers.MODULES["far"] = "far_provider"
"""
RUN = f"""{ONE_LINE}
from loom.commands.run import run
from loom.record.request import Request
sys.exit(run.run_with(Request(flags={{"on": "far", "keep": sys.argv[1]}})))
"""
LOOM = f"""{ONE_LINE}
from loom.cli import main
main()
"""
WORKFLOW = """
version: v1
stages: [build, test]
build:
  stage: build
  image: none
  script:
    - echo "$LOOM_PROVIDER in $CI_PROJECT_DIR"; mkdir out; cat source >out/made; echo "MADE=yes" >>$LOOM_ENV
    - test "$MADE" = yes
  artifacts: {paths: [out]}
test:
  stage: test
  image: none
  needs: [build]
  variables: {GREETING: hello}
  secrets: {KEY: "env://FAR_KEY"}
  script:
    - cat out/made; touch here
    - test -e repaired
    - echo done
after:
  stage: test
  needs: [test]
  when: on_failure
  image: none
  script: test ! -e here
"""


@pytest.fixture
def far(tmp_path: Path) -> dict[str, str]:
    """A repository, and the environment of who works in it."""
    for name in ("repo/.loom", "far", "home"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "repo/.loom/workflow.yml").write_text(WORKFLOW)
    (tmp_path / "repo/source").write_text("the source\n")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "LOOM_TMP_DIR": str(tmp_path),
        "LOOM_TRUST": "1",
        "LOOM_AUTO_CLEAN": "false",
        "FAR": str(tmp_path / "far"),
        "FAR_KEY": "a-long-secret",
        "TERM": "dumb",
    }
    commit_all(tmp_path / "repo")
    return environment


def python(far: dict[str, str], program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=Path(far["FAR"]).parent / "repo",
        env=far,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )


def jobs_of(ended: subprocess.CompletedProcess[str]) -> dict[str, str]:
    return dict(re.findall(r"^[^a-z▸]+ (\w+) +(passed|failed|skipped)", ended.stdout, re.MULTILINE))


def test_a_run_on_a_provider_that_nothing_else_knows(far: dict[str, str]) -> None:
    ran = python(far, RUN, "on-failure")
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert jobs_of(ran) == {"build": "passed", "test": "failed", "after": "passed"}, ran.stdout
    assert [directory.name.split(".")[1] for directory in Path(far["FAR"]).iterdir()] == ["test"], (
        "the failed one, and no other"
    )
    assert "far in /workspace" in python(far, LOOM, "logs", "build").stdout

    inside = python(far, LOOM, "exec", "test", "--", "sh", "-c", "cat out/made; echo $GREETING; cat $KEY; exit 7")
    assert (inside.returncode, inside.stdout) == (7, "the source\nhello\na-long-secret"), inside.stderr
    shell = pexpect.spawn(
        sys.executable, ["-c", LOOM, "shell", "test"], cwd=Path(far["FAR"]).parent / "repo", env=far, timeout=60
    )
    shell.sendline("touch repaired; cat out/made | tr a-z A-Z")
    shell.expect_exact("THE SOURCE")
    shell.sendline("exit")
    shell.expect(pexpect.EOF)

    resumed = python(far, LOOM, "resume")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "in its kept container" in resumed.stdout
    assert list(Path(far["FAR"]).iterdir()) == []


def test_what_a_failed_job_leaves_is_brought_back_where_nothing_is_kept(far: dict[str, str]) -> None:
    assert python(far, RUN, "never").returncode == 1
    assert list(Path(far["FAR"]).iterdir()) == []
    inside = python(far, LOOM, "exec", "test", "--", "sh", "-c", "ls; cat $KEY")
    assert inside.stdout == "here\nout\nsource\na-long-secret", inside.stderr
    again = python(far, LOOM, "rerun", "--fresh", "--keep", "never")
    assert jobs_of(again) == {"build": "passed", "test": "failed", "after": "passed"}, again.stdout + again.stderr


def test_a_run_is_cleaned_with_its_places_when_its_machine_answers_and_others_are_cleaned_meanwhile(
    far: dict[str, str],
) -> None:
    assert python(far, RUN, "on-failure").returncode == 1
    workflow = Path(far["FAR"]).parent / "repo/.loom/workflow.yml"
    workflow.write_text("version: v1\nstages: [here]\nhere: {stage: here, script: 'true'}\n")
    assert python(far, LOOM, "run", "--local", "--no-container").returncode == 0
    machine = Path(far["FAR"])
    machine.rename(away := machine.with_name("away"))
    left = python(far, LOOM, "clean", "--keep-last", "0")
    assert left.returncode == 3, left.stdout + left.stderr
    lines = left.stdout.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == ["removed", "could", "1"]
    assert "  its sessions on far are left: the far machine does not answer" in lines
    away.rename(machine)
    assert len(list(machine.iterdir())) == 1
    done = python(far, LOOM, "clean", "--keep-last", "0")
    assert (done.returncode, list(machine.iterdir())) == (0, []), done.stdout + done.stderr
    assert not list(machine.parent.glob("*/loom-run-local-*"))


def test_a_machine_that_does_not_answer_ends_the_run_before_its_jobs(far: dict[str, str]) -> None:
    Path(far["FAR"]).rmdir()
    ran = python(far, RUN, "never")
    assert ran.returncode == 3
    assert "the far machine does not answer" in ran.stdout + ran.stderr
