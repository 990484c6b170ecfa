"""The one door to the engine: which engine, how to reach it, and what its errors mean to a user.

`connect` finds the engine the way the `docker` command does (`DOCKER_HOST`, else the current context, else the default
socket). `translated` turns everything that the SDK can raise into loom's own errors, by one table. `retrying` repeats a
call that failed on the engine's own account. The SDK takes 80 ms to import, so nothing here imports it before it is used.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct

from loom.cancel import Cancel
from loom.errors import EngineUnavailable, ImageError, LoomError, ProviderError, RequestError

if TYPE_CHECKING:
    import docker

T = TypeVar("T")
Made = TypeVar("Made")

DEFAULT_SOCKET = "unix:///var/run/docker.sock"
FIRST_ANSWER_S = 10
"""How long an engine may take for its first answer; one that hangs is told from a slow one here."""
ANSWER_S = 60
"""How long any later call may be silent: a busy engine takes its time to create and to remove, one that hangs more."""
DISK_FULL = "ENGINE_DISK_FULL"
MAKE_ROOM = "the engine's disk is full; see what it holds with `docker system df`, and make room there"
LONG_S = 600
"""How long a call may be silent for which the engine moves much data before it says a word (`taking_long`)."""
CONNECTIONS = 80
"""Connections kept open: one per job that waits, and some for those that come and go."""


class Endpoint(Struct, frozen=True, kw_only=True):
    """Where an engine listens, and who said so (`DOCKER_HOST`, a context, nobody)."""

    url: str
    source: str
    ca_cert: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    verify: bool = True

    @property
    def tls(self) -> bool:
        return self.ca_cert is not None or self.client_cert is not None

    @property
    def ssh(self) -> bool:
        return self.url.startswith("ssh://")

    @property
    def local(self) -> bool:
        """True when the engine most likely sees this machine's file system."""
        return self.url.startswith(("unix://", "/"))

    def __str__(self) -> str:
        return f"{self.url} ({self.source})"


def endpoint_of(environ: Mapping[str, str]) -> Endpoint:
    """The engine that `environ` names. RequestError for a context that does not exist or cannot be read."""
    if host := environ.get("DOCKER_HOST"):
        return Endpoint(url=_with_scheme(host), source="DOCKER_HOST", **_tls_of(environ))
    config_dir = _config_dir(environ)
    if name := environ.get("DOCKER_CONTEXT"):
        source = f"context {name}, from DOCKER_CONTEXT"
    else:
        name = _current_context(config_dir)
        source = f"context {name}"
    if name in ("", "default"):
        return Endpoint(url=DEFAULT_SOCKET, source="the default", **_tls_of(environ))
    return _context(config_dir, name, source)


def _config_dir(environ: Mapping[str, str]) -> Path:
    if directory := environ.get("DOCKER_CONFIG"):
        return Path(directory)
    return Path(environ.get("HOME") or Path("~").expanduser()) / ".docker"


def _current_context(config_dir: Path) -> str:
    try:
        config = json.loads((config_dir / "config.json").read_bytes())
    except (OSError, ValueError):
        return ""  # the docker command, too, goes on without it
    return str(config.get("currentContext") or "") if isinstance(config, dict) else ""


def _context(config_dir: Path, name: str, source: str) -> Endpoint:
    digest = hashlib.sha256(name.encode()).hexdigest()
    meta = config_dir / "contexts" / "meta" / digest / "meta.json"
    try:
        endpoint = json.loads(meta.read_bytes())["Endpoints"]["docker"]
        url = _with_scheme(endpoint["Host"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"the Docker context {name!r} can't be read: {meta}: {error}",
            hint="see `docker context ls`; choose one with `docker context use NAME`, or set DOCKER_HOST",
        ) from error
    tls = config_dir / "contexts" / "tls" / digest / "docker"
    return Endpoint(
        url=url,
        source=source,
        ca_cert=_existing(tls / "ca.pem"),
        client_cert=_existing(tls / "cert.pem"),
        client_key=_existing(tls / "key.pem"),
        verify=not endpoint.get("SkipTLSVerify", False),
    )


def _tls_of(environ: Mapping[str, str]) -> dict[str, Any]:
    if not environ.get("DOCKER_TLS_VERIFY") and not environ.get("DOCKER_TLS"):
        return {}
    directory = Path(environ.get("DOCKER_CERT_PATH") or _config_dir(environ))
    return {
        "ca_cert": _existing(directory / "ca.pem"),
        "client_cert": _existing(directory / "cert.pem"),
        "client_key": _existing(directory / "key.pem"),
        "verify": bool(environ.get("DOCKER_TLS_VERIFY")),
    }


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None


def _with_scheme(host: str) -> str:
    return f"unix://{host}" if host.startswith("/") else host


def connect(environ: Mapping[str, str], *, answer_s: int = ANSWER_S) -> docker.DockerClient:
    """A client of the engine that `environ` names, which has just answered. The caller closes it; threads may share it.

    EngineUnavailable, with what to do about it, when none answers.
    """
    endpoint = endpoint_of(environ)
    # A socket that is not there is told from one that hangs before the SDK is even imported.
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


def shared(environ: Mapping[str, str]) -> Callable[[], docker.DockerClient]:
    """A function that gives one client to all that ask, connecting at the first call; safe from any thread."""
    lock = threading.Lock()
    made: list[docker.DockerClient] = []

    def client() -> docker.DockerClient:
        with lock:
            if not made:
                made.append(connect(environ))
            return made[0]

    return client


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


def unavailable(endpoint: Endpoint, environ: Mapping[str, str], error: BaseException) -> LoomError:
    """What to tell the user when no engine answers at `endpoint`."""
    cause = _root_cause(error)
    # The ssl module's errors are OSErrors with numbers of their own.
    number = cause.errno if isinstance(cause, OSError) and type(cause).__module__ != "ssl" else None
    if endpoint.ssh:
        return _unreachable_by_ssh(endpoint, cause)
    match number:
        case errno.ENOENT:
            reason, move = "its socket is not there", _start(endpoint)
        case errno.ECONNREFUSED:
            reason, move = "nobody listens there", _start(endpoint)
        case errno.EACCES | errno.EPERM:
            reason = "permission denied"
            move = "join the group that may use it (`sudo usermod -aG docker $USER`, then log in again)"
        case _:
            reason, move = _first_line(cause), "see `docker info` for what the engine says"
    hints = [f"{move}, or name another engine with DOCKER_HOST or `docker context use`"]
    hints += _other_engines(endpoint, environ)
    return EngineUnavailable(f"no Docker engine answers at {endpoint}: {reason}", hint="\n".join(hints))


def _start(endpoint: Endpoint) -> str:
    if "podman" in endpoint.url:
        return "start podman's (`systemctl --user start podman.socket`; root's without --user)"
    if endpoint.url.startswith(("unix:///run/user/", "unix:///home/")):
        return "start Docker (`systemctl --user start docker`)"
    return "start Docker (`sudo systemctl start docker`)"


def _unreachable_by_ssh(endpoint: Endpoint, cause: BaseException) -> LoomError:
    """The same for one behind ssh, whose own words say where it went wrong."""
    said = _first_line(cause)
    if isinstance(cause, ValueError):
        return RequestError(f"{endpoint.source}: {said}")
    by_hand = endpoint.url.rstrip("/").removeprefix("ssh://")
    by_hand = f"ssh ssh://{by_hand.partition('/')[0]} docker version"
    known: Mapping[str, str] = {
        "can't be run": "install an ssh client (openssh-client)",
        "key is not the one that is known": "find out which; then `ssh-keygen -R HOST` forgets the old key",
        "Host key verification failed": f"connect once by hand and look at the key that it shows: {by_hand}",
        "Permission denied (": "loom asks for no password: add your key to the agent (ssh-add), or name it in ~/.ssh/config",
        "command not found": "the docker command must be there, in the PATH of a shell that is no login shell",
        "connect: permission denied": "join the group that may use it there (`sudo usermod -aG docker USER`)",
        "raw stream connection": "start Docker there, or name its socket: ssh://USER@HOST/path/to/docker.sock",
        "onnect to the Docker daemon": "start Docker there, or name its socket: ssh://USER@HOST/path/to/docker.sock",
    }
    move = next((move for words, move in known.items() if words in said), f"try it by hand: {by_hand}")
    return EngineUnavailable(f"no Docker engine answers at {endpoint}: {said}", hint=move)


def _other_engines(endpoint: Endpoint, environ: Mapping[str, str]) -> list[str]:
    """Sockets of other engines on this machine, as the commands that would use them."""
    runtime = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    candidates = {
        "Docker": (DEFAULT_SOCKET.removeprefix("unix://"),),
        "rootless Docker": (f"{runtime}/docker.sock",),
        "podman": (f"{runtime}/podman/podman.sock", "/run/podman/podman.sock"),
    }
    offers = [
        f"{name} listens at {path}: DOCKER_HOST=unix://{path} loom ..."
        for name, paths in candidates.items()
        for path in paths
        if f"unix://{path}" != endpoint.url and os.access(path, os.W_OK)
    ]
    if not any("podman listens" in offer for offer in offers) and shutil.which("podman", path=environ.get("PATH")):
        of_user, folder = ("", "/run") if os.getuid() == 0 else ("--user ", runtime)
        offers.append(
            f"podman is installed and can stand in: `systemctl {of_user}enable --now podman.socket`, "
            f"then DOCKER_HOST=unix://{folder}/podman/podman.sock loom ..."
        )
    return offers


# Everything that the SDK can raise, and what it is to us; the most specific class of an error's ancestry counts. Names,
# not classes, so that this table costs no import; a test holds it against the SDK's own list.
OUR_ERROR: Mapping[str, type[LoomError]] = {
    "docker.errors.APIError": ProviderError,
    "docker.errors.BuildError": ImageError,
    "docker.errors.ContainerError": ProviderError,
    "docker.errors.ContextAlreadyExists": ProviderError,
    "docker.errors.ContextException": ProviderError,
    "docker.errors.ContextNotFound": EngineUnavailable,
    "docker.errors.DeprecatedMethod": ProviderError,
    "docker.errors.DockerException": ProviderError,
    "docker.errors.ImageLoadError": ImageError,
    "docker.errors.ImageNotFound": ImageError,
    "docker.errors.InvalidArgument": ProviderError,
    "docker.errors.InvalidConfigFile": ProviderError,
    "docker.errors.InvalidRepository": ImageError,
    "docker.errors.InvalidVersion": EngineUnavailable,
    "docker.errors.MissingContextParameter": EngineUnavailable,
    "docker.errors.NotFound": ProviderError,
    "docker.errors.NullResource": ProviderError,
    "docker.errors.StreamParseError": ProviderError,
    "docker.errors.TLSParameterError": EngineUnavailable,
    "docker.credentials.errors.StoreError": ImageError,
    "requests.exceptions.RequestException": EngineUnavailable,
    "urllib3.exceptions.HTTPError": EngineUnavailable,
    "http.client.HTTPException": EngineUnavailable,
    "builtins.OSError": EngineUnavailable,
    # The SDK wants strings where the engine sent something else: the engine's answer is broken, not our call.
    "json.decoder.JSONDecodeError": ProviderError,
}


def ours(error: BaseException, doing: str) -> LoomError | None:
    """The error to raise instead of `error`, which happened while `doing` something; None when it is not the engine's."""
    if isinstance(error, LoomError):
        return error
    for ancestor in type(error).__mro__:
        if kind := OUR_ERROR.get(f"{ancestor.__module__}.{ancestor.__qualname__}"):
            said = explanation(error)
            full = "no space left on device" in said.lower()
            return kind(f"{doing}: {said}", hint=MAKE_ROOM if full else None, code=DISK_FULL if full else None)
    return None


def explanation(error: BaseException) -> str:
    """The engine's own words, without the SDK's wrapping."""
    said = getattr(error, "explanation", None)
    if isinstance(said, bytes):
        said = said.decode(errors="replace")
    return str(said).strip() if said else _first_line(_root_cause(error))


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raise the SDK's errors as ours; `doing` says what loom was at ("creating the container of job test")."""
    try:
        yield
    except Exception as error:
        mine = ours(error, doing)
        if mine is None or mine is error:
            raise
        raise mine from error


_TIMEOUTS = {"requests.exceptions.Timeout", "builtins.TimeoutError"}
_BROKEN = {
    "requests.exceptions.ConnectionError",
    "requests.exceptions.ChunkedEncodingError",
    "urllib3.exceptions.ProtocolError",
    "http.client.HTTPException",
    "builtins.ConnectionError",
}


def is_transient(error: BaseException) -> bool:
    """True for the engine's own hiccups: a broken connection, a gateway's 5xx, an engine that was too slow this time.

    Not for one that has been silent for as long as it may be: to ask it again would only double that time.
    """
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        return status in (429, 502, 503, 504) or (status == 500 and "deadline exceeded" in explanation(error))
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
    return bool(names & _BROKEN) and not names & _TIMEOUTS and not _is_timeout(_root_cause(error))


def _is_timeout(error: BaseException) -> bool:
    return isinstance(error, TimeoutError) or "Read timed out" in str(error)


class StartFailed(ProviderError):
    """A container was not started, for no fault of the request's. Nothing of its image has run, but it is spoilt.

    `refused`: the engine itself says so; otherwise its answer was lost, and the container may run.
    """

    default_code = "CONTAINER_START_FAILED"
    refused: bool = True


def start_failed(error: BaseException, doing: str) -> StartFailed | None:
    """The error for a container's failed start, if another start may well succeed; `doing` names container and owner."""
    # The runtime's own: its first process in a container was gone at once, as happens on a busy machine.
    refused = getattr(error, "status_code", None) == 500 and "read init-p" in explanation(error)
    if not refused and not is_transient(error):
        return None
    failed = StartFailed(f"{doing}: {explanation(error)}", hint="the machine may be overloaded: run it again")
    failed.refused = refused
    return failed


def retrying(
    call: Callable[[], T],
    *,
    attempts: int = 4,
    first_wait_s: float = 0.1,
    when: Callable[[BaseException], bool] = is_transient,
) -> T:
    """What `call` returns; it is repeated as it is after the engine's own hiccups, so it must be safe to repeat.

    Never for a step, and never for a container's start: the connections that were made for it are dead after a failed one.
    """
    return _repeated(call, when, attempts, first_wait_s)


def starting(make: Callable[[], Made], start: Callable[[Made], T], remove: Callable[[Made], None], cancel: Cancel) -> T:
    """What `start` returns for a container that `make` has made; after StartFailed both are repeated.

    `start` makes new connections each time: an engine that fails a start drops the connections that were made for it. A container
    is given a second start where the engine says that the first did not happen; then it is removed, and a new one is made.
    """

    def attempt() -> T:
        made = make()
        try:
            try:
                return start(made)
            except StartFailed as failed:
                if not failed.refused or cancel.requested:
                    raise
                return start(made)
        except StartFailed:
            remove(made)
            raise

    return _repeated(attempt, lambda error: isinstance(error, StartFailed) and not cancel.requested, 3, 0.1)


def restarting(api: Any, container_id: str, doing: str, connect: Callable[[], None] = lambda: None) -> None:
    """Start a container that cannot be replaced, again after StartFailed; `connect` is called before each start."""

    def start() -> None:
        connect()
        try:
            api.start(container_id)
        except Exception as error:
            if failed := start_failed(error, doing):
                raise failed from error
            raise

    _repeated(start, lambda error: isinstance(error, StartFailed), 4, 0.1)


def _repeated(call: Callable[[], T], when: Callable[[BaseException], bool], attempts: int, first_wait_s: float) -> T:
    try:
        return call()
    except Exception as error:
        if not when(error):
            raise
    # Imported late: tenacity takes 50 ms, and nearly every call works the first time.
    import tenacity

    for attempt in tenacity.Retrying(
        retry=tenacity.retry_if_exception(when),
        wait=tenacity.wait_random_exponential(multiplier=first_wait_s, max=5),
        stop=tenacity.stop_after_attempt(attempts - 1),
        reraise=True,
    ):
        with attempt:
            return call()
    raise AssertionError("unreachable: tenacity raises what the last attempt raised")


def _root_cause(error: BaseException) -> BaseException:
    """The error at the bottom: the SDK and its HTTP library each wrap it, as cause, as context or as an argument."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        inner = next(
            (arg for arg in (*error.args, getattr(error, "reason", None)) if isinstance(arg, BaseException)), None
        )
        inner = inner or error.__cause__
        if inner is None and len(error.args) > 1 and isinstance(error.args[1], BaseException):
            inner = error.args[1]
        if inner is None:
            return error
        error = inner
    return error


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
