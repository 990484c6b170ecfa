"""The one door to the engine. The SDK takes 80 ms to import, so nothing here imports it before it is used."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import docker
from loom.providers.docker.endpoint import Endpoint, endpoint_of, unavailable

FIRST_ANSWER_S = 10
"""How long an engine may take for its first answer; after that it counts as hanging."""
ANSWER_S = 60
"""How long any later call may be silent: a busy engine takes its time to create and to remove, one that hangs more."""
LONG_S = 600
"""The same for calls that move much data before the engine answers (`taking_long`)."""
CONNECTIONS = 80
"""Connections kept open: one per job that waits, and some for those that come and go."""


def connect(environ: Mapping[str, str], *, answer_s: int = ANSWER_S) -> docker.DockerClient:
    """A client of the engine that `environ` names, which has just answered. The caller closes it; threads may share it.

    EngineUnavailable, with what to do about it, when none answers.
    """
    endpoint = endpoint_of(environ)
    # A missing socket is reported before the SDK is imported.
    _look_at_socket(endpoint, environ)
    import docker
    from docker.tls import TLSConfig

    class EnginesOwn(TLSConfig):
        """The engine's certificates alone count: REQUESTS_CA_BUNDLE would silently take the place of its ca.pem."""

        def configure_client(self, client: docker.APIClient) -> None:
            super().configure_client(client)
            client.trust_env = False

    class Api(docker.APIClient):
        """Asks the engine once what it is, when it connects: jobs start in the time that asking again would take."""

        _said: dict[str, Any] | None = None

        def _set_request_timeout(self, kwargs: dict[str, Any]) -> dict[str, Any]:
            return {"timeout": getattr(_of_thread, "limit_s", self.timeout), **kwargs}

        def through(self, adapter: Any) -> Api:
            """With every request carried by `adapter`; only now is the engine asked for its version."""
            self.mount("http+docker://", adapter)
            self._version = str(self.version(api_version=False)["ApiVersion"])
            return self

        def version(self, api_version: bool = True) -> dict[str, Any]:
            if self._said is None:
                self._said = super().version(api_version)
            return self._said

    class Client(docker.DockerClient):
        def __init__(self, api: Api) -> None:  # all that the SDK's own does, with its own class
            self.api = api
            self.endpoint = endpoint

    tls: TLSConfig | bool = False
    try:
        if endpoint.tls:
            pair = (str(endpoint.client_cert), str(endpoint.client_key))
            tls = EnginesOwn(
                client_cert=pair if endpoint.client_cert and endpoint.client_key else None,
                ca_cert=str(endpoint.ca_cert) if endpoint.ca_cert else None,
                verify=endpoint.verify,
            )
        if endpoint.ssh:
            from docker.constants import DEFAULT_DOCKER_API_VERSION

            from loom.providers.docker.ssh import Dialler, SshAdapter

            adapter = SshAdapter(Dialler(endpoint.url, environ), timeout=FIRST_ANSWER_S, connections=CONNECTIONS)
            # The version, which is asked for later, keeps the SDK from connecting by itself.
            api = Api("unix://ssh", version=DEFAULT_DOCKER_API_VERSION, timeout=FIRST_ANSWER_S)
            client = Client(api.through(adapter))
        else:
            client = Client(
                Api(base_url=endpoint.url, tls=tls, timeout=FIRST_ANSWER_S, max_pool_size=CONNECTIONS),
            )
    except Exception as error:
        raise unavailable(endpoint, environ, error) from error
    client.api.timeout = answer_s
    return client


_of_thread = threading.local()


@contextlib.contextmanager
def taking_long() -> Iterator[None]:
    """Calls of this thread, within the block, may be silent for LONG_S: saving or loading a file system, changing owners."""
    _of_thread.limit_s = LONG_S
    try:
        yield
    finally:
        del _of_thread.limit_s


def endpoint_behind(client: docker.DockerClient) -> Endpoint | None:
    """Which endpoint `connect` made this client for."""
    return getattr(client, "endpoint", None)


def _look_at_socket(endpoint: Endpoint, environ: Mapping[str, str]) -> None:
    if not endpoint.url.startswith("unix://"):
        return
    path = Path(endpoint.url.removeprefix("unix://"))
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise unavailable(endpoint, environ, error) from error
    if not stat.S_ISSOCK(mode):
        raise unavailable(endpoint, environ, OSError(errno.ENOTSOCK, "is not a socket"))
    if not os.access(path, os.W_OK):
        raise unavailable(endpoint, environ, PermissionError(errno.EACCES, "permission denied"))
