"""The connection to the engine's API, and what the engine can do. The SDK takes 80 ms to import, so its import is late."""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

from loom.plan.model import Resources
from loom.providers.docker.engine.endpoint import Endpoint, endpoint_of, proxies_of, unavailable
from loom.providers.docker.engine.retries import asked
from loom.values import Environ

FIRST_ANSWER_S = 10
"""Time limit of an engine's first answer."""
ANSWER_S = 60
"""Maximum silence in later calls: a busy engine is slow to create and remove."""
LONG_S = 600
"""Maximum silence while the owner of files is changed."""
_CERTIFICATES = ("ca.pem", "cert.pem", "key.pem")
CONNECTIONS = 80
"""Connection pool size: one per waiting job, plus some for brief calls."""

ENGINES_SOCKET = "/var/run/docker.sock"
"""The default path of an engine's socket, also inside jobs that may use it."""
_ENFORCED_BY: Mapping[str, str] = {"memory": "MemoryLimit", "cpus": "CpuCfsQuota", "pids": "PidsLimit"}
"""Limits of a job, with the engine's field that reports support."""


class EngineClient(Protocol):
    """What loom needs of the SDK's client. `api` is the SDK's too, without types: its stubs lack much."""

    @property
    def api(self) -> Any: ...
    def version(self) -> Mapping[str, Any]: ...
    def info(self) -> Mapping[str, Any]: ...
    def close(self) -> None: ...


def connect(environ: Environ) -> EngineClient:
    """Return a client of the engine that `environ` names, after a first answer. The caller closes it; threads may share
    it.

    EngineUnavailable, with the next move, when none answers.
    """
    endpoint = endpoint_of(environ)
    if endpoint.local and not Path(endpoint.url.removeprefix("unix://")).exists():
        raise unavailable(endpoint, environ, FileNotFoundError(errno.ENOENT, "no socket"))  # before the import
    import docker
    from docker.constants import DEFAULT_DOCKER_API_VERSION
    from docker.tls import TLSConfig
    from docker.transport import UnixHTTPAdapter

    class OnePool(UnixHTTPAdapter):
        """Keeps the connections to the engine's socket in one pool: the SDK's own makes one for each URL, with room for
        all connections, which is half of what a request costs."""

        def get_connection(self, url: str | bytes, proxies: Any = None) -> Any:
            return super().get_connection("http+docker://localhost", proxies)

    class EnginesOwn(TLSConfig):
        """Trust only the engine's certificates: REQUESTS_CA_BUNDLE would silently replace its ca.pem."""

        def configure_client(self, client: docker.APIClient) -> None:
            super().configure_client(client)
            client.trust_env = False

    class Api(docker.APIClient):
        """Asks the engine for its version once, when it connects, and for what it can do at the first question: repeating
        these would delay each job's start. Podman takes a tenth of a second."""

        _said: dict[str, Any] | None = None
        _info: dict[str, Any] | None = None
        _version: str

        def _get_raw_response_socket(self, response: Any) -> Any:
            raw = super()._get_raw_response_socket(response)  # type: ignore[misc]  # the stubs lack it
            return EngineSocket(response, raw if hasattr(raw, "recv") else raw._sock)

        def version(self, api_version: bool = True) -> dict[str, Any]:
            if self._said is None:
                self._said = super().version(api_version)
            return self._said

        def info(self) -> dict[str, Any]:
            if self._info is None:
                self._info = super().info()
            return self._info

    class SdkClient(docker.DockerClient):
        def __init__(self, api: Api) -> None:  # same as the SDK's, with our class
            self.api = api
            self.endpoint = endpoint
            self.proxies = proxies_of(endpoint, environ)

    tls: TLSConfig | bool = False
    try:
        address = endpoint.url
        if endpoint.ssh:
            from loom.providers.docker.engine.ssh import forwarded

            address = forwarded(endpoint.url, environ)
        if (folder := endpoint.certificates) is not None:
            ca, cert, key = (str(path) if path.exists() else None for path in map(folder.joinpath, _CERTIFICATES))
            pair = (cert, key) if cert and key else None
            tls = EnginesOwn(client_cert=pair, ca_cert=ca, verify=endpoint.verify)
        # Requesting the version later keeps the SDK from connecting now.
        api = Api(address, DEFAULT_DOCKER_API_VERSION, FIRST_ANSWER_S, tls, max_pool_size=CONNECTIONS)
        if address.startswith("unix://"):
            pool = OnePool(address.removeprefix("unix://"), FIRST_ANSWER_S, max_pool_size=CONNECTIONS)
            api.mount("http+docker://", pool)
            # Otherwise each request looks through the environment for proxies, which a socket has no use for.
            api.trust_env = False
        api._version = str(api.version(api_version=False)["ApiVersion"])
        client = SdkClient(api)
    except Exception as error:
        raise unavailable(endpoint, environ, error) from error
    client.api.timeout = ANSWER_S
    return client


class Engine:
    """One connection to an engine. Thread-safe."""

    def __init__(self, environ: Environ, address: str | None = None) -> None:
        """Use the configured engine at `address`, else the one that `environ` names."""
        self.environ = dict(environ)
        if address:
            self.environ["DOCKER_HOST"] = address
        self._lock = threading.Lock()
        self._client: EngineClient | None = None

    def __call__(self) -> EngineClient:
        """Connect. EngineUnavailable when no engine answers."""
        with self._lock:
            if self._client is None:
                self._client = connect(self.environ)
            return self._client

    def another(self) -> EngineClient:
        """Return a separate connection, which the caller closes."""
        return connect(self.environ)

    def described(self) -> str:
        """Identify the engine and its address; EngineUnavailable when it does not answer."""
        traits = Traits(self())
        return f"{traits.name} {traits.version} at {endpoint_of(self.environ)}"

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                with contextlib.suppress(Exception):
                    self._client.close()


class EngineSocket:
    """A raw connection's socket. It begins with what was read together with the head of the answer, which the SDK loses:
    the whole output of a short command, where this process is slow to read.
    """

    def __init__(self, response: Any, of_connection: Any) -> None:
        self._response = response
        self._socket = of_connection
        limit_s = of_connection.gettimeout()
        of_connection.settimeout(0)
        try:
            self._ahead = bytes(response.raw._fp.fp.peek())
        except ssl.SSLWantReadError:
            self._ahead = b""
        finally:
            of_connection.settimeout(limit_s)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def fileno(self) -> int:
        return int(self._socket.fileno())

    def recv(self, size: int) -> bytes:
        if not self._ahead:
            return bytes(self._socket.recv(size))  # no limit: the caller sets it
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        return data

    def pending(self) -> bool:
        """Return whether there is data that a poll of the descriptor does not show: read ahead, or decrypted by TLS."""
        decrypted = getattr(self._socket, "pending", None)
        return bool(self._ahead or (decrypted and decrypted()))

    def close(self) -> None:
        with contextlib.suppress(OSError):  # the engine closed it first
            self._socket.shutdown(socket.SHUT_RDWR)
        for part in (self._response, self._socket):
            with contextlib.suppress(OSError, ValueError):  # both own it
                part.close()


class Traits(Struct):
    """The traits of one engine. Thread-safe."""

    _client: EngineClient

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
    def proxies(self) -> Mapping[str, str]:
        """The variables of the user's proxies for containers (`proxies_of`)."""
        return getattr(self._client, "proxies", {})

    @property
    def here(self) -> bool:
        """Return whether the engine has this machine's files and paths: it is not elsewhere, nor in a virtual machine."""
        endpoint: Endpoint | None = getattr(self._client, "endpoint", None)
        platform = self._version().get("Platform") or {}
        return endpoint is not None and endpoint.local and "Desktop" not in str(platform.get("Name"))

    @property
    def socket(self) -> str:
        """The socket's path on the containers' machine: loom's own path, unless the engine is in a virtual machine."""
        endpoint: Endpoint | None = getattr(self._client, "endpoint", None)
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
        return asked("asking for the engine's version", lambda: self._client.version())

    def _asked(self) -> Mapping[str, Any]:
        return asked("asking what the engine can do", lambda: self._client.info())
