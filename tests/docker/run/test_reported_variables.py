"""Variables that one job reports for others, through real runs."""

import pytest

from .conftest import Project

pytestmark = pytest.mark.docker

WORKFLOW = """
version: v1
stages: [build, test, deploy]
build:
  stage: build
  image: debian:trixie-slim
  variables: {OWN: build}
  script: ['printf "VERSION=1.2\\nOWN=reported\\nQUOTED=\\"q\\"\\n" > vars.env']
  artifacts: {reports: {dotenv: vars.env}}
test:
  stage: test
  image: debian:trixie-slim
  variables: {OWN: test, URL: "https://$$VERSION/"}
  script: ['echo "$VERSION $OWN $QUOTED $URL"; test -e fixed']
without:
  stage: test
  image: debian:trixie-slim
  needs: []
  script: ['echo "${VERSION-none}"']
"""


def test_later_jobs_have_them_also_when_they_run_again(project: Project) -> None:
    project.workflow(WORKFLOW)
    ran = project.run("--jobs", "1")
    assert ran.output("test") == ['1.2 reported "q" https://1.2/']
    assert ran.output("without") == ["none"]
    assert project.run("--var", "OWN=given").output("test") == ['1.2 given "q" https://1.2/']
    again = project.loom("rerun", ran.receipt["run_id"], "--failed")
    assert again.output("test") == ['1.2 reported "q" https://1.2/']


SERVICES = """
stages: [build, test]
build:
  stage: build
  script: ['printf "IMAGE=debian:trixie-slim\\nALIAS=found\\n" > vars.env']
  artifacts: {reports: {dotenv: vars.env}}
test:
  stage: test
  image: debian:trixie-slim
  services:
    - {name: $IMAGE, alias: $ALIAS, command: [sleep, "60"]}
    - {name: "debian:trixie-slim", alias: ends, command: ["true"]}
    - {name: "debian:trixie-slim", alias: dies, command: [sh, -c, "sleep 4; exit 3"]}
  script: ["getent hosts found debian >/dev/null", sleep 6]
"""


def test_services_of_gitlab_have_names_that_are_reported_and_may_end(project: Project) -> None:
    project.write(".gitlab-ci.yml", SERVICES)
    project.commit()
    ran = project.run("--container")
    assert ran.code == 0, ran.out + ran.err
    logs = project.loom("logs", "last", "test", "--system").out
    assert "starting debian:trixie-slim as found, debian" in logs
    assert "dies: ended with exit code 3" in logs


def test_a_report_that_is_no_list_of_variables_fails_the_job(project: Project) -> None:
    project.workflow(WORKFLOW.replace("VERSION=1.2", "# a comment"))
    ran = project.run()
    assert ran.code == 3
    assert "vars.env:1: the line is a comment" in ran.out
