"""Child pipelines and other waits of GitLab's file, through real runs."""

import json

import pytest

from .conftest import Project, load

pytestmark = pytest.mark.docker

PIPELINE = """
stages: [build, test, deploy]
default: {image: debian:trixie-slim}
variables: {FROM_PARENT: "yes it is"}
generate:
  stage: build
  script:
    - 'echo "dynamic: {script: [echo dynamic \\$WORD]}" > made.yml'
    - 'echo "VERSION=1.2" > vars.env'
  artifacts: {paths: [made.yml], reports: {dotenv: vars.env}}
child:
  stage: test
  variables: {WORD: hello}
  trigger: {include: ci/child.yml, strategy: depend}
generated:
  stage: test
  variables: {WORD: generated}
  trigger: {include: [{artifact: made.yml, job: generate}], strategy: depend}
loose:
  stage: test
  trigger: {include: ci/bad.yml}
missing:
  stage: test
  allow_failure: true
  trigger: {include: ci/nowhere.yml, strategy: depend}
bad:
  stage: test
  allow_failure: true
  trigger: {include: ci/bad.yml, strategy: depend}
ask:
  stage: deploy
  when: manual
  script: [echo asked]
kubeconfig:
  stage: deploy
  variables: {CONFIG: {value: "content of $VERSION", expand: true}}
  script: ['echo "$CONFIG"']
"""


def children_of(project: Project, run_id: str) -> dict[str, str]:
    """The status of each child by the name of its only job."""
    found = {}
    for path in project.record_files("receipts/*.json"):
        receipt = load(path)
        if receipt["extent"]["parent_run_id"] == run_id:
            plan = json.loads((path.parent.parent / "plan.json").read_text())
            found[plan["plan"]["jobs"][0]["id"]] = receipt["status"]
    return found


def test_children_are_runs_of_their_own_with_the_parents_files_and_variables(project: Project) -> None:
    project.write(".gitlab-ci.yml", PIPELINE)
    project.write("ci/child.yml", "one: {script: ['echo \"$WORD $FROM_PARENT $CI_PIPELINE_SOURCE\"']}\n")
    project.write("ci/bad.yml", "broken: {script: [exit 3]}\n")
    project.commit()
    ran = project.run()
    assert ran.code == 0, ran.out + ran.err
    assert "skipped: manual: name it to run it" in ran.out
    assert ran.manifest("missing")["status"] == "failure"
    assert "ended with failure" in ran.manifest("bad")["error"]
    assert ran.output("kubeconfig") == ["content of 1.2"]
    assert children_of(project, ran.receipt["run_id"]) == {"one": "success", "dynamic": "success", "broken": "failure"}
    printed = "".join(path.read_text() for path in project.record_files("logs/*/jobs/*/user/script/01/events.jsonl"))
    assert "hello yes it is parent_pipeline" in printed
    assert "dynamic generated" in printed
