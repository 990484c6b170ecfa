"""The engine's disk is full: by a job's own doing, before a container is made, while its workspace is filled."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Project

pytestmark = pytest.mark.docker

WORKFLOW = """
version: v1
stages: [first, second]
default: {image: ash:test, network: none}
fills:
  stage: first
  script:
    - while [ ! -e go ]; do sleep 0.05; done; cat </dev/zero >/big || true
    - i=0; while [ $i -lt 2000 ]; do echo line $i, which the engine has no room for; i=$((i+1)); done
    - echo more >>/big
  after_script: [": >full; while [ ! -e over ]; do sleep 0.05; done"]
goes_on:
  stage: first
  artifacts: {paths: [made]}
  script:
    - ": >go; while [ ! -e full ]; do sleep 0.05; done"
    - i=0; while [ $i -lt 2000 ]; do echo line $i, which the engine has no room for; i=$((i+1)); done
    - echo made >made; echo last
    - ": >over"
has_room_again:
  stage: second
  when: always
  script: [echo fine]
"""


def test_the_engines_disk_is_full(
    project: Project, new_engine: Callable[[], Any], busybox: bytes, make_file_system: Callable[..., Path], fill: Any
) -> None:
    own = new_engine()
    own.data = make_file_system("ext4", 64)
    try:
        client = own.start()
        own.load_busybox(client, busybox)

        def left() -> list[Any]:
            return [*client.api.containers(all=True), *(client.api.volumes()["Volumes"] or [])]

        project.workflow(WORKFLOW)
        ran = project.run("-j", "2", "--mount-mode", "bind_mount", DOCKER_HOST=own.url)  # they tell each other by files
        assert ran.code == 1, ran.out + ran.err
        assert ran.manifest("fills")["failing_step"] == "script/03"
        for job, step in (("fills", "script/02"), ("goes_on", "script/02")):
            assert ran.output(job, step) == [f"line {i}, which the engine has no room for" for i in range(2000)]
        assert ran.manifest("goes_on")["status"] == "success"
        assert "made" in project.loom("artifacts", ran.receipt["run_id"], "goes_on").out
        assert ran.output("has_room_again") == ["fine"]
        assert left() == []

        project.workflow("version: v1\nstages: [a]\na: {stage: a, image: ash:test, network: none, script: [echo hi]}\n")
        for leave, mode, doing in (
            (0, "bind_mount", "creating the container"),
            (0, "overlay", "making the workspace's volume"),
            (60_000, "ephemeral_volume", "writing to the workspace"),
        ):
            filler = fill(own.data, leave=leave)
            ran = project.run("--mount-mode", mode, DOCKER_HOST=own.url)
            filler.unlink()
            assert ran.code == 3, (mode, ran.out, ran.err)
            assert f"{doing} " in ran.receipt["error"], mode
            assert "no space left on device" in ran.receipt["error"]
            assert "docker system df" in ran.out, "what to do"
            assert ran.err == ""
            assert left() == []
        assert project.run(DOCKER_HOST=own.url).code == 0
        client.close()
    finally:
        own.stop()
