"""What a person should know before jobs run: which of them are not isolated, and what of the workflow is surely not meant."""

import json

import pytest

from .conftest import Make

pytestmark = pytest.mark.slow

LOST = """\
version: v1
stages: [test]
.setup:
  before_script:
    - cd /tmp
a:
  extends: .setup
  stage: test
  script: [pwd]
b:
  stage: test
  script:
    - export X=1
  rules: [{if: $NOWHERE}]
"""


def test_jobs_on_this_machine_are_named_before_they_run(make: Make) -> None:
    project = make(LOST)
    shown = project.loom("run", "--local")
    said = "! on this machine, not isolated (LOOM_CONTAINER): a; in a container: loom run --container"
    assert said in shown
    assert shown.index(said) < shown.index("▸ a")
    assert said in project.loom("show")
    assert "not isolated" not in project.loom("run", "--local", "--quiet")


def test_what_check_warns_of_is_said_once_of_the_jobs_that_run(make: Make) -> None:
    project = make(LOST)
    shown = project.loom("run", "--local", "a")
    assert shown.count("! .loom/workflow.yml:5: each step is a fresh shell: cd ends with it") == 1
    assert "export" not in shown
    assert shown.index("workflow.yml:5") < shown.index("▸ a")
    notices = [
        event["data"]["text"]
        for event in map(json.loads, project.last().paths.events.read_text().splitlines())
        if event.get("message") == "notice"
    ]
    assert len(notices) == 2


def test_a_container_is_the_rule_and_a_users_setting_changes_it(make: Make) -> None:
    project = make("version: v1\nstages: [t]\na: {stage: t, script: [pwd]}\n")
    nowhere = {"DOCKER_HOST": f"unix://{project.home}/none.sock"}
    assert "loom run --no-container" in project.loom("run", "--local", code=3, LOOM_CONTAINER="", **nowhere)
    shown = project.loom("run", "--local", "--no-container", LOOM_CONTAINER="", **nowhere)
    assert "not isolated (--no-container): a" in shown
    project.loom("run", "--local", "--container", code=3, **nowhere)
    (project.root / ".loom/config.yml").write_text("container: false\n")  # not for a project to decide
    project.loom("run", "--local", code=3, LOOM_CONTAINER="", **nowhere)
    (project.root / ".loom/config.yml").unlink()
    config = project.home / ".config/loom/config.yml"
    config.parent.mkdir(parents=True)
    config.write_text("container: false\n")
    shown = project.loom("run", "--local", LOOM_CONTAINER="", **nowhere)
    assert f"not isolated ({config}:1:12): a" in shown
