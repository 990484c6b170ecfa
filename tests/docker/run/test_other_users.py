"""A caller who is not root, a job of another user, and a place that is created again."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Project

pytestmark = pytest.mark.docker
SOCKET = Path("/var/run/docker.sock")
UID = 12345
WORKFLOW = """
version: v1
stages: [test]
make:
  stage: test
  image: debian:trixie-slim
  script: [echo made > made.txt]
  artifacts: {paths: [made.txt]}
unit:
  stage: test
  image: debian:trixie-slim
  user: "1234"
  needs: [make]
  script: [id -u; mkdir own; echo x > own/file, cat made.txt fixed]
late:
  stage: test
  allow_failure: true  # else it would be missed before the first job
  image: debian:trixie-slim
  needs: [make]
  secrets: {TOKEN: {ref: "env://NOT_THERE_YET"}}
  script: [cat made.txt]
"""


@pytest.fixture
def theirs() -> Iterator[Project]:
    """A project of a user who is not root, and who may use the engine."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None or not SOCKET.exists():
        pytest.skip("becomes another user")
    base = Path(f"/tmp/loom-test-users-{os.getpid()}")
    (base / "project").mkdir(parents=True)
    made = Project(base / "project", base / "home")
    made.git("init", "-q", "-b", "main")
    made.write("src.txt", "source\n")
    made.workflow(WORKFLOW)
    subprocess.run(["chown", "-R", f"{UID}:{UID}", base], check=True)
    group = SOCKET.stat().st_gid
    made.become = ("setpriv", f"--reuid={UID}", f"--regid={UID}", f"--groups={group}")
    yield made
    made.loom("clean", "--all")
    shutil.rmtree(base, ignore_errors=True)


def test_the_files_of_a_kept_job_of_another_user_are_pulled_and_gone_on_with(theirs: Project) -> None:
    ran = theirs.loom("run", "--local", "unit", "--keep", "on-failure", "--mount-mode", "bind_mount")
    assert ran.code == 1, ran.out + ran.err
    write = theirs.loom("exec", "unit", "--", "sh", "-c", "id -u; echo repaired > fixed; echo more >> src.txt")
    assert (write.code, write.out) == (0, "1234\n"), write.err
    pulled = theirs.loom("pull")
    assert pulled.code == 0, pulled.err
    for line in ("+++ b/fixed", "+++ b/own/file", "+more"):
        assert line in pulled.out
    healed = theirs.loom("resume")
    assert healed.code == 0, healed.out + healed.err
    assert "could not be saved" not in healed.out + healed.err
    assert healed.output("unit", "script/02") == ["made", "repaired"]
    assert "+++ b/fixed" in theirs.loom("pull").out, "also now that the container is gone"


def test_a_session_for_a_job_that_had_none_has_what_its_first_step_needs(theirs: Project) -> None:
    assert theirs.loom("run", "--local", "late", "--mount-mode", "overlay").code == 3
    inside = theirs.loom("exec", "late", "--", "cat", "made.txt", NOT_THERE_YET="a-long-secret")
    assert (inside.code, inside.out) == (0, "made\n"), inside.err
    assert "as its first step would find it" in inside.err
