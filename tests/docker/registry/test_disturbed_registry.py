"""Pulls from a real registry behind a proxy that cuts connections: the engine repeats, or loom does, not both."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from loom.cancel import Cancel
from loom.errors import ImageError
from loom.images.reference import parse_reference
from loom.providers.base import ResolveRequest
from loom.providers.docker.engine.client import Engine
from loom.providers.docker.images.registry import pull as pulled
from tests.support.disturbed_registry import DisturbedRegistry
from tests.support.own_engine import OwnEngine

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(shutil.which("docker-registry") is None, reason="no docker-registry program (Debian's package)"),
]


class Pulling:
    """An engine of the tests' own, its registry, and what the pull of the image there has printed."""

    def __init__(self, client: docker.DockerClient, url: str, registry: DisturbedRegistry) -> None:
        self._client, self._url = client, url
        self.registry = registry
        self.output = b""

    def __call__(self) -> None:
        engine = Engine({"DOCKER_HOST": self._url})
        self.output = b""
        request = ResolveRequest(workspace=Path(), on_output=self._hear, cancel=Cancel())
        pulled(engine, parse_reference(self.registry.image), "linux/amd64", request)

    def _hear(self, stream: str, data: bytes) -> None:
        self.output += data

    def forget(self) -> None:
        self._client.api.remove_image(self.registry.image, force=True)


@pytest.fixture(scope="module")
def pull(
    new_engine_of_module: Callable[..., OwnEngine], busybox: bytes, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pulling]:
    engine = new_engine_of_module(network=True)
    client = engine.start("--max-download-attempts 2")  # the default is 5, which take 50 s
    engine.load_busybox(client, busybox)
    assert engine.process is not None
    registry = DisturbedRegistry(tmp_path_factory.mktemp("registry"), engine.process.pid)
    registry.fill(client)
    pull = Pulling(client, engine.url, registry)
    pull.forget()
    yield pull
    registry.close()
    client.close()


def test_a_layer_that_the_engine_has_repeated_is_not_repeated(pull: Pulling) -> None:
    pull.registry.disturb("cut", 20_000, 1000)
    with pytest.raises(ImageError, match="the engine's own repetitions failed too") as failed:
        pull()
    assert failed.value.code == "IMAGE_REGISTRY_DOWN"
    assert b"trying again" not in pull.output


def test_what_the_engine_does_not_repeat_is_repeated(pull: Pulling) -> None:
    pull.registry.disturb("cut", 0, 2)
    pull()
    assert b"trying again" in pull.output
    assert b"pulled" in pull.output
    pull.forget()
