"""The connection to the engine's API. The SDK takes 80 ms to import, so its import is late."""

from __future__ import annotations

import contextlib
import errno
import ssl
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import docker
from loom.providers.docker.engine.endpoint import Endpoint, endpoint_of, unavailable

FIRST_ANSWER_S = 10
"""Time limit of an engine's first answer."""
ANSWER_S = 60
"""Maximum silence in later calls: a busy engine is slow to create and remove."""
LONG_S = 600
"""Maximum silence while the owner of files is changed."""
_CERTIFICATES = ("ca.pem", "cert.pem", "key.pem")
CONNECTIONS = 80
"""Connection pool size: one per waiting job, plus some for brief calls."""


def connect(environ: Mapping[str, str]) -> docker.DockerClient:
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

    class Client(docker.DockerClient):
        def __init__(self, api: Api) -> None:  # same as the SDK's, with our class
            self.api = api
            self.endpoint = endpoint

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
        client = Client(api)
    except Exception as error:
        raise unavailable(endpoint, environ, error) from error
    client.api.timeout = ANSWER_S
    return client


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
        for part in (self._response, self._socket):
            with contextlib.suppress(OSError, ValueError):  # both own it
                part.close()


def endpoint_behind(client: docker.DockerClient) -> Endpoint | None:
    """Return the endpoint of a client from `connect`."""
    return getattr(client, "endpoint", None)
