"""An engine that fails a kind of request for good: the run says so, with its exit code and a receipt, and leaves nothing."""

from pathlib import Path

import pytest

from tests.chaos.proxy import EngineProxy, shape
from tests.support.effort import LONG

from .conftest import Project

pytestmark = pytest.mark.docker

WORKFLOW = """
version: v1
stages: [test]
unit:
  stage: test
  image: debian:trixie-slim
  services: [{name: side, image: debian:trixie-slim, command: [sleep, "60"]}]
  script: [echo hi]
built:
  stage: test
  image: {build: {context: .}}
  script: [echo hi]
"""
REQUESTS = [
    "GET /images/*/json",
    "POST /networks/create",
    *(["GET /containers/*/json", "POST /containers/create", "POST /containers/*/start"] if LONG else []),
]


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_that_always_fails(project: Project, tmp_path: Path, request_: str) -> None:
    project.write("Dockerfile", "FROM debian:trixie-slim\n")
    project.workflow(WORKFLOW)
    method, _, path = request_.partition(" ")
    start, _, end = path.partition("*")

    def fails(_: int, request: str) -> str | None:
        there = shape(request).partition(" ")
        return "error" if there[0] == method and there[2].startswith(start) and there[2].endswith(end) else None

    proxy = EngineProxy(tmp_path / "p.sock", "/var/run/docker.sock", fails)  # type: ignore[arg-type]
    try:
        ran = project.run(DOCKER_HOST=proxy.url)
    finally:
        proxy.close()
    assert ran.code == 3, ran.out + ran.err
    assert ran.receipt["exit_code"] == 3
    assert "chaos: the engine failed" in ran.receipt["error"]
