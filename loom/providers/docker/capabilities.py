"""The kind of engine, where that makes a difference. The engine is asked once, and only for what is needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from loom.plan.model import Resources
from loom.providers.docker.client import endpoint_behind
from loom.providers.docker.errors import translated
from loom.providers.docker.retries import retrying

if TYPE_CHECKING:
    import docker

ENGINES_SOCKET = "/var/run/docker.sock"
"""Where an engine's socket is by default, and where a job that may use it finds it."""
_ENFORCED_BY: Mapping[str, str] = {"memory": "MemoryLimit", "cpus": "CpuCfsQuota", "pids": "PidsLimit"}
"""Limits of a job, and the engine's word for whether it can hold a container to them."""


class Traits:
    """One engine's. Thread-safe."""

    def __init__(self, client: docker.DockerClient, info: Mapping[str, Any] | None = None) -> None:
        """`info`: the engine's own answer to that question, where it is at hand."""
        self._client = client
        self._info = info

    @property
    def podman(self) -> bool:
        return any("podman" in part for part in self._parts())

    @property
    def version(self) -> str:
        return str(self._version().get("Version") or "of unknown version")

    @property
    def rootless(self) -> bool:
        """Whether the engine runs as a user, and root in its containers is that user."""
        if not self.podman:
            return "rootlesskit" in self._parts()
        return "name=rootless" in (self._asked().get("SecurityOptions") or ())

    @property
    def name(self) -> str:
        """For people: Docker or podman, and whether Docker is rootless. Podman needs a tenth of a second to answer that."""
        if self.podman:
            return "podman"
        return "rootless Docker" if self.rootless else "Docker"

    @property
    def socket(self) -> str:
        """The path of its socket where its containers run: the one that loom uses, unless the engine is in a virtual machine."""
        platform = self._version().get("Platform") or {}
        endpoint = endpoint_behind(self._client)
        if endpoint is None or not endpoint.local or "Desktop" in str(platform.get("Name")):
            return ENGINES_SOCKET
        return endpoint.url.removeprefix("unix://")

    def unenforced(self, resources: Resources | None = None) -> list[str]:
        """Return the limits (among `resources`) that this engine accepts and does not enforce."""
        wanted = [limit for limit in _ENFORCED_BY if resources is None or getattr(resources, limit) is not None]
        if wanted and self.podman and self.rootless and str(self._asked().get("CgroupVersion")) == "1":
            return wanted  # its answer about each of them is wrong
        return [limit for limit in wanted if self._asked().get(_ENFORCED_BY[limit]) is False]

    def _parts(self) -> list[str]:
        return [str(part.get("Name", "")).lower() for part in self._version().get("Components") or ()]

    def _version(self) -> Mapping[str, Any]:
        with translated("asking for the engine's version"):
            said: Mapping[str, Any] = retrying(lambda: self._client.version())  # the client has it since it connected
            return said

    def _asked(self) -> Mapping[str, Any]:
        # Podman takes a tenth of a second for its answer. Not within the lock, where others would wait for a silent engine.
        if (info := self._info) is None:
            with translated("asking what the engine can do"):
                info = retrying(lambda: self._client.info())
            self._info = info
        return info
