"""A lazy connection to the engine."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from loom.providers.docker.engine.client import connect
from loom.providers.docker.engine.endpoint import endpoint_of

if TYPE_CHECKING:
    import docker


class Engine:
    """One connection to an engine. Thread-safe."""

    def __init__(self, environ: Mapping[str, str], address: str | None = None) -> None:
        """Use the configured engine at `address`, else the one that `environ` names."""
        self.environ = dict(environ)
        if address:
            self.environ["DOCKER_HOST"] = address
        self._lock = threading.Lock()
        self._client: docker.DockerClient | None = None

    def __call__(self) -> docker.DockerClient:
        """Connect. EngineUnavailable when no engine answers."""
        with self._lock:
            if self._client is None:
                self._client = connect(self.environ)
            return self._client

    def another(self) -> docker.DockerClient:
        """Return a separate connection, which the caller closes."""
        return connect(self.environ)

    def described(self) -> str:
        """Identify the engine and its address; EngineUnavailable when it does not answer."""
        from loom.providers.docker.engine.capabilities import Traits

        traits = Traits(self())
        return f"{traits.name} {traits.version} at {endpoint_of(self.environ)}"

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                with suppress(Exception):
                    self._client.close()
