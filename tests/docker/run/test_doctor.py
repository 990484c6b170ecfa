"""`loom doctor` starts a container: it said that all was well where none could start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loom.errors import ProviderError
from loom.providers.docker.engine.probe import probe
from tests.support.own_engine import end_processes_of
from tests.support.waiting import promptly

from .conftest import Project

pytestmark = pytest.mark.docker

FAILS = "#!/bin/sh\nfor word; do [ \"$word\" = create ] && { echo 'no such luck' >&2; exit 1; }; done\nexit 0\n"
HANGS = '#!/bin/sh\nfor word; do [ "$word" = create ] && exec tail -f {0}/hangs/on; done\nexec runc "$@"\n'


@pytest.fixture
def own(new_engine: Callable[[], Any]) -> Iterator[Any]:
    engine = new_engine()
    yield engine
    end_processes_of(engine.directory / "hangs")  # an engine waits for its runtime before it ends


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


def test_one_that_hangs_is_waited_for_so_long(tmp_path: Path, own: Any, busybox: bytes) -> None:
    (own.directory / "hangs").mkdir()
    (own.directory / "hangs/on").touch()
    client = started(own, HANGS.format(own.directory))
    own.load_busybox(client, busybox)
    with promptly(), pytest.raises(ProviderError, match="in time"):
        probe(client, "debian:none", tmp_path, limit_s=1)
