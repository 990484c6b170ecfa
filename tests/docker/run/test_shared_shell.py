"""A job whose steps share a shell: through a failure, the kept container, a resume, and breakpoints."""

import docker
import pytest

from loom.providers.docker.container.cleanup import remove_run

from .conftest import Project

pytestmark = pytest.mark.docker

WORKFLOW = """
version: v1
stages: [test]
unit:
  stage: test
  image: debian:trixie-slim
  shared_shell: true
  before_script:
    - export GREETING=hello
    - 'greet() { echo "$GREETING $1 in ${PWD##*/}"; }'
  script:
    - mkdir -p sub && cd sub
    - |
      greet two
      test -e ../fixed
    - greet three
    - exit 0
    - greet nobody
  after_script:
    - echo "after ${GREETING-nothing} in ${PWD##*/}"; later=1
    - echo "later=$later"; (exit 1)
    - greet nobody
"""


def test_each_step_is_recorded_and_the_shell_goes_on_after_a_resume(project: Project) -> None:
    project.workflow(WORKFLOW)
    failed = project.run("--keep", "on-failure")
    runs = [failed.receipt["run_id"]]
    try:
        assert failed.code == 1
        assert (failed.output("unit", "script/02"), failed.manifest("unit")["failing_step"]) == (
            ["hello two in sub"],
            "script/02",
        )
        assert failed.output("unit", "after_script/01") == ["after nothing in workspace"]
        assert failed.output("unit", "after_script/02") == ["later=1"]
        assert not (failed.logs / "jobs/unit/user/after_script/03").exists()
        assert project.loom("exec", "unit", "--", "greet", "you").out.splitlines() == ["hello you in sub"]
        assert project.loom("exec", "unit", "--", "touch", "../fixed").code == 0
        resumed = project.loom("resume")
        assert resumed.code == 0, resumed.out
        runs += [path.parent.name for path in project.record_files("run.json") if path.parent.name not in runs]
        assert "script/04 ended the shell with exit code 0: the steps after it were not run" in resumed.out
        record = project.record_files(f"logs/{runs[-1]}/jobs/unit/user/script/03/events.jsonl")
        assert "hello three in sub" in record[-1].read_text()
    finally:
        client = docker.from_env()
        for run in runs:
            remove_run(client, run)
        client.close()


def test_on_the_host(project: Project) -> None:
    project.workflow(WORKFLOW.replace("  image: debian:trixie-slim\n", "").replace("test -e ../fixed", "true"))
    ran = project.loom("run", "--local", "--no-container")
    assert ran.code == 0, ran.out
    assert ran.output("unit", "script/03") == ["hello three in sub"]
    assert ran.output("unit", "after_script/02") == ["later=1"]
