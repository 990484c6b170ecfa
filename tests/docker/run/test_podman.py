"""A whole run on podman: the three views of the workspace, standing inside a failure, going on from it, nothing left."""

from collections.abc import Iterator
from typing import Any

import docker
import pytest

from loom.plan.model import MountMode
from loom.providers.docker.engine.client import connect

from .conftest import Project

pytestmark = [pytest.mark.docker, pytest.mark.slow]

WORKFLOW = """
version: v1
stages: [test]
default: {network: none}
first:
  stage: test
  image: ash:test
  cache: [{key: k, paths: [cached]}]
  script:
    - cat cached/old || mkdir cached; id -u >>cached/old
    - echo NAME=value >>$LOOM_ENV; echo made >made; echo outside >/outside; rm -r whole; mkdir whole; echo x >whole/new
    - test ! -e /stop
    - cat made /outside; echo $NAME
  artifacts: {paths: [made]}
second:
  stage: test
  needs: [first]
  image: {name: ash:test, user: "1234:1234"}
  script: [id -u; cat made; mkdir mine; echo x >mine/file]
"""


@pytest.fixture(scope="module")
def podman(podman_engine: str, busybox: bytes) -> Iterator[docker.DockerClient]:
    from tests.support.own_engine import load_busybox

    client = connect({"DOCKER_HOST": podman_engine})
    load_busybox(client, busybox)
    yield client
    client.close()


def what_is_left(client: Any) -> list[str]:
    containers = [container["Names"][0] for container in client.api.containers(all=True)]
    return containers + [volume["Name"] for volume in client.api.volumes()["Volumes"] or ()]


@pytest.mark.parametrize("mode", [MountMode.BIND, MountMode.OVERLAY])
def test_a_run_on_podman_is_like_any_other(
    project: Project, podman: docker.DockerClient, podman_engine: str, mode: MountMode
) -> None:
    project.write("whole/old", "")
    project.workflow(WORKFLOW)
    for outcome in (["made", "outside", "value"], ["made", "outside", "value"]):
        ran = project.run("--mount-mode", mode.value, DOCKER_HOST=podman_engine)
        assert ran.code == 0, ran.out + ran.err
        assert ran.output("first", "script/04") == outcome
        assert ran.output("second") == ["1234", "made"]
    assert ran.output("first", "script/01") == ["0"]  # what the run before had cached
    assert (ran.workspace / "whole/new").exists() == (mode is MountMode.BIND)
    assert what_is_left(podman) == []


def test_a_failed_run_goes_on_after_a_look_inside(
    project: Project, podman: docker.DockerClient, podman_engine: str
) -> None:
    there = {"DOCKER_HOST": podman_engine}
    project.write("whole/old", "")
    project.workflow(WORKFLOW.replace("test ! -e /stop", "test -e fixed"))
    failed = project.run("--keep", "on-failure", **there)
    assert failed.code == 1, failed.out + failed.err
    inside = project.loom("exec", "first", "--", "sh", "-c", "cat made /outside; echo >fixed; exit 5", **there)
    assert (inside.code, inside.out) == (5, "made\noutside\n")
    resumed = project.loom("resume", **there)
    assert resumed.code == 0, resumed.out + resumed.err
    assert "first goes on from script/03, in its kept container" in resumed.out + resumed.err
    assert resumed.output("first", "script/04") == ["made", "outside", "value"]
    assert project.loom("clean", "--keep-last", "0", **there).code == 0
    assert what_is_left(podman) == []


def test_doctor_says_podman(project: Project, podman: docker.DockerClient, podman_engine: str) -> None:
    assert "engine: podman " in project.loom("doctor", DOCKER_HOST=podman_engine).out


def test_podman_is_offered_where_docker_does_not_answer(project: Project, podman_engine: str) -> None:
    project.workflow(WORKFLOW)
    ran = project.run(DOCKER_HOST=f"unix://{project.tmp}/none.sock")
    assert ran.code == 3
    assert "podman" in ran.out
    assert "DOCKER_HOST=unix://" in ran.out
