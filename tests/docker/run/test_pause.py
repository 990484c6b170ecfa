"""A run without a terminal that stops at the failure, to be gone on with."""

from collections.abc import Iterator

import pytest

from .conftest import Project, ended
from .test_debug import clean

pytestmark = pytest.mark.docker

WORKFLOW = """\
version: v1
stages: [test, later]
unit:
  stage: test
  image: debian:trixie-slim
  retry: {max: 1, backoff: 0s}
  script: [touch made, test -e mended, echo three]
  after_script: [rm made]
soft:
  stage: test
  image: debian:trixie-slim
  allow_failure: true
  script: ["false"]
  after_script: [echo soft is over]
after:
  stage: later
  image: debian:trixie-slim
  script: [echo after]
"""


@pytest.fixture
def paused(project: Project) -> Iterator[Project]:
    project.workflow(WORKFLOW)
    yield project
    clean(project)


def test_a_failed_job_waits_at_its_step_and_goes_on(paused: Project) -> None:
    assert paused.run("--stop-at=pause", "--keep", "never").code == 2
    assert paused.run("--stop-at=pause", "--stop-at=failure").code == 2
    ran = paused.run("--stop-at=pause")
    command = f"loom resume {ran.receipt['run_id']}"
    assert (ran.code, ran.receipt["exit_code"], ran.receipt["resume_command"]) == (77, 77, command)
    assert ran.output("soft", "after_script/01") == ["soft is over"]
    assert paused.loom("exec", "unit", "--", "ls").out == "README\nmade\n"

    again = paused.loom("resume")  # not repaired; and it has no attempt left
    assert again.code == 77, again.out + again.err
    assert f"go on with: loom resume {again.receipt['run_id']}" in again.out
    assert paused.loom("exec", "unit", "--", "touch", "mended").code == 0
    passed = paused.loom("resume")
    assert passed.code == 0, passed.out + passed.err
    assert passed.receipt["resume_command"] is None
    assert passed.output("after") == ["after"]
    assert passed.manifest("unit")["status"] == "success"


def test_resume_opens_a_shell_where_it_fails_again(paused: Project) -> None:
    assert paused.run("--stop-at=pause", "unit").code == 77
    child = paused.on_terminal("resume", "--stop-at=failure", "-j", "1")
    child.expect("failed with exit code 1")
    child.expect(r"\[unit\] [^\r\n]*[#$] ")
    child.sendline("touch mended; exit")
    child.expect("or .f.ail the job")
    child.sendline("r")
    child.expect("unit .*passed")
    assert ended(child) == 0
