"""Which shell runs a job's steps: bash where the image has it, else sh, with no word about it in the workflow."""

from collections.abc import Iterator

import pytest

from .conftest import Project
from .test_debug import clean

pytestmark = pytest.mark.docker

WORKFLOW = """\
version: v1
stages: [test]
default: {image: debian:trixie-slim}
bash:
  stage: test
  script:
    - '[[ $0 == /run/loom/* ]] && echo "bash $-"'
pipe:
  stage: test
  script: ['false | cat', 'echo not reached']
plain:
  stage: test
  image: {build: {context: plain}}
  script: ['echo "plain ${BASH_VERSION:-none} $-"']
asked:
  stage: test
  shell: sh
  script: ['echo "asked ${BASH_VERSION:-none}"']
"""
PLAIN = "FROM debian:trixie-slim\nRUN rm -f /bin/bash /usr/bin/bash\n"


@pytest.fixture
def shells(project: Project) -> Iterator[Project]:
    project.write("plain/Dockerfile", PLAIN)
    project.workflow(WORKFLOW)
    yield project
    clean(project)


def test_steps_run_in_bash_where_the_image_has_it(shells: Project) -> None:
    ran = shells.run("-v", "--keep", "on-failure")
    assert ran.code == 1, ran.out + ran.err
    assert ran.output("bash") == ["bash ehB"]
    assert ran.output("plain") == ["plain none e"]
    assert ran.output("asked") == ["asked none"]
    assert ran.manifest("pipe")["failing_step"] == "script/01"
    shown = {job: ran.manifest(job)["session"]["shell"] for job in ("bash", "pipe", "plain", "asked")}
    assert shown == {
        "bash": "bash -e -o pipefail",
        "pipe": "bash -e -o pipefail",
        "plain": "sh -e -o pipefail",
        "asked": "sh -e",
    }
    assert "shell=bash -e -o pipefail" in ran.out

    # A kept container is gone on from in the same shell.
    resumed = shells.loom("resume")
    assert resumed.code == 1, resumed.out + resumed.err
    assert resumed.manifest("pipe")["session"]["shell"] == "bash -e -o pipefail"
    assert resumed.manifest("pipe")["failing_step"] == "script/01"


def test_again_in_a_shell_runs_the_step_as_the_job_did(shells: Project) -> None:
    assert shells.run("--keep", "on-failure", "pipe").code == 1
    child = shells.on_terminal("shell")
    prompt = r"\[pipe\] [^\r\n]*[#$] "
    child.expect(prompt)
    child.sendline("again; echo code=$?")
    child.expect("code=1")
    child.expect(prompt)
    child.sendline("exit 0")
    child.expect("exit")
    child.close()
