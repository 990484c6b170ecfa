"""`loom doctor` starts a container: it said that all was well where none could start."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Project

pytestmark = pytest.mark.docker

FAILS = "#!/bin/sh\nfor word; do [ \"$word\" = create ] && { echo 'no such luck' >&2; exit 1; }; done\nexit 0\n"


@pytest.fixture
def own(new_engine: Callable[[], Any]) -> Any:
    return new_engine()


def started(own: Any, runtime: str) -> Any:
    script: Path = own.directory / "runtime"
    script.write_text(runtime)
    script.chmod(0o755)
    return own.start(f"--add-runtime=wrapped={script}", "--default-runtime=wrapped")


def test_one_is_started_and_removed(project: Project) -> None:
    ran = project.loom("doctor", LOOM_DEFAULT_IMAGE="debian:trixie-slim")
    assert "container: one of debian:trixie-slim started, wrote into a workspace and was removed" in ran.out
    assert list(project.tmp.glob("loom-doctor-*")) == []


def test_an_engine_that_starts_none(project: Project, own: Any, busybox: bytes) -> None:
    client = started(own, FAILS)
    empty = project.loom("doctor", DOCKER_HOST=own.url)
    assert "container: not tried: the engine has no image to start one from" in empty.out
    assert "docker pull " in empty.out
    own.load_busybox(client, busybox)
    ran = project.loom("doctor", DOCKER_HOST=own.url)
    assert ran.code == 3, ran.out
    assert "container: starting the container" in ran.out
    assert "no such luck" in ran.out or "runtime" in ran.out
    assert client.api.containers(all=True) == []
