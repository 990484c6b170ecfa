"""The engine's kind and abilities, asked for on demand; a client of `connect` keeps the answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from loom.plan.model import Resources
from loom.providers.docker.engine.client import endpoint_behind
from loom.providers.docker.engine.errors import translated
from loom.providers.docker.engine.retries import retrying

if TYPE_CHECKING:
    import docker

ENGINES_SOCKET = "/var/run/docker.sock"
"""The default path of an engine's socket, also inside jobs that may use it."""
_ENFORCED_BY: Mapping[str, str] = {"memory": "MemoryLimit", "cpus": "CpuCfsQuota", "pids": "PidsLimit"}
"""Limits of a job, with the engine's field that reports support."""


class Traits:
    """One engine's. Thread-safe."""

    def __init__(self, client: docker.DockerClient) -> None:
        self._client = client

    @property
    def podman(self) -> bool:
        return any("podman" in part for part in self._parts())

    @property
    def version(self) -> str:
        return str(self._version().get("Version") or "of unknown version")

    @property
    def rootless(self) -> bool:
        """Return whether the engine runs as a user, who is then root in its containers."""
        if not self.podman:
            return "rootlesskit" in self._parts()
        return "name=rootless" in (self._asked().get("SecurityOptions") or ())

    @property
    def name(self) -> str:
        """For people: Docker or podman, and whether Docker is rootless. Podman takes a tenth of a second to answer."""
        if self.podman:
            return "podman"
        return "rootless Docker" if self.rootless else "Docker"

    @property
    def here(self) -> bool:
        """Return whether the engine has this machine's files and paths: it is not elsewhere, nor in a virtual machine."""
        endpoint, platform = endpoint_behind(self._client), self._version().get("Platform") or {}
        return endpoint is not None and endpoint.local and "Desktop" not in str(platform.get("Name"))

    @property
    def socket(self) -> str:
        """The socket's path on the containers' machine: loom's own path, unless the engine is in a virtual machine."""
        endpoint = endpoint_behind(self._client)
        return endpoint.url.removeprefix("unix://") if endpoint is not None and self.here else ENGINES_SOCKET

    @property
    def reachable(self) -> bool:
        """Return whether this machine reaches the addresses of the engine's containers."""
        return self.here and not self.rootless

    def unenforced(self, resources: Resources) -> list[str]:
        """Return the limits in `resources` that this engine accepts but does not enforce."""
        wanted = [limit for limit in _ENFORCED_BY if getattr(resources, limit) is not None]
        return [limit for limit in wanted if self._asked().get(_ENFORCED_BY[limit]) is False]

    def _parts(self) -> list[str]:
        return [str(part.get("Name", "")).lower() for part in self._version().get("Components") or ()]

    def _version(self) -> Mapping[str, Any]:
        with translated("asking for the engine's version"):
            answer: Mapping[str, Any] = retrying(lambda: self._client.version())
            return answer

    def _asked(self) -> Mapping[str, Any]:
        with translated("asking what the engine can do"):
            answer: Mapping[str, Any] = retrying(lambda: self._client.info())
            return answer
