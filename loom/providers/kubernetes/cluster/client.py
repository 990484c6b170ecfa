"""The API server of one context. The only module that imports the client library, and that knows its errors."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
import re
import socket
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar, cast
from urllib.parse import urlencode

import urllib3
from kubernetes import client
from kubernetes import config as untyped_config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from kubernetes.stream import ws_client as untyped_websockets
from msgspec import Struct
from websocket import WebSocket, WebSocketException
from yaml import YAMLError

from loom.cancel import Cancel
from loom.errors import EngineUnavailable, LoomError, ProviderError
from loom.util.retrying import Policy, retrying
from loom.util.units import meant
from loom.util.within import within
from loom.values import Environ

config: Any = untyped_config
ws_client: Any = untyped_websockets
T = TypeVar("T")
Json = dict[str, Any]

CALL_S = (5.0, 30.0)
"""Time limits of one request: to connect, and between two pieces of the answer."""
WATCH_S = 330.0
"""How long an answer that goes on may be silent; then it is asked for again."""
PATIENCE_S = 60.0
"""The time for which a request is repeated while the API server does not answer."""
HURRY_S = 5.0
"""The same, and the limit of one request, when the user has asked for the end."""
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
CHANNELS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
"""The protocols of a command's streams, the best first."""


class Gone(ProviderError):
    """The object is not there any more."""

    default_code = "POD_GONE"


class Exists(ProviderError):
    """An object of this name is there already, such as from a request whose answer was lost."""


class _Connection:
    """The client of one context, made at the first request."""

    def __init__(self, context: str | None, environ: Environ) -> None:
        self.context = context
        self._environ = environ
        self._lock = threading.Lock()
        self._made: tuple[Any, str] | None = None
        self.hurry = Cancel()

    def __call__(self) -> tuple[Any, str]:
        """Return the client and the context's namespace. EngineUnavailable when nothing is configured."""
        with self._lock:
            if self._made is None:
                try:
                    self._made = self._make()
                except (ConfigException, YAMLError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                    raise EngineUnavailable(
                        f"no cluster is configured: {_first_line(error)}",
                        hint="KUBECONFIG=FILE names another file, `--on kubernetes:CONTEXT` or the pool's `context` one of its"
                        " contexts",
                        code="CLUSTER_NOT_CONFIGURED",
                    ) from error
            return self._made

    def _make(self) -> tuple[Any, str]:
        home = Path(self._environ.get("HOME", "~"))
        file = self._environ.get("KUBECONFIG") or str(home / ".kube/config")
        merged = config.kube_config.KubeConfigMerger(file).config
        configuration = client.Configuration()
        configuration.retries = False  # `Cluster.patiently` repeats
        if merged is None and not self.context and _SERVICE_ACCOUNT.exists():
            config.load_incluster_config(client_configuration=configuration)
            return client.CoreV1Api(client.ApiClient(configuration)), _SERVICE_ACCOUNT.read_text()
        if merged is None:
            raise ConfigException(f"there is no file {file}")
        contexts = {one.value["name"]: one.value.get("context") or {} for one in merged.value["contexts"]}
        self.context = self.context or merged.value.get("current-context")
        if self.context not in contexts:
            wanted = (
                f"no context {self.context}{meant(self.context, contexts)}" if self.context else "no current-context"
            )
            raise ConfigException(f"{file} has {wanted} (its contexts: {', '.join(contexts) or 'none'})")
        with _logged() as said, tempfile.TemporaryDirectory(prefix="loom-kubeconfig-") as directory:
            config.load_kube_config(
                file,
                self.context,
                client_configuration=configuration,
                persist_config=False,
                temp_file_path=directory,
            )
            _hold(configuration, Path(directory))
        if said:
            raise EngineUnavailable(
                f"the kubeconfig's program for credentials failed: {shorten(said[0], 400, placeholder='...')} ({self.named})",
                hint="log in again as it says, or install it; `kubectl get pods` runs it too",
                code="CLUSTER_UNAUTHORIZED",
            )
        namespace = contexts[self.context].get("namespace") or "default"
        return client.CoreV1Api(client.ApiClient(configuration)), namespace

    @property
    def named(self) -> str:
        return f"context {self.context}" if self.context else "the context in use"

    def close(self) -> None:
        if self._made is not None:
            self._made[0].api_client.close()


def _hold(configuration: Any, directory: Path) -> None:
    """Keep the certificates and keys that the library wrote into `directory` as open files, which need no name.

    It would remove them itself at a regular end only, and a key would stay behind after any other.
    """
    held = {}
    for path in directory.iterdir():
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(configuration, os.close, file)
        held[str(path)] = f"/proc/self/fd/{file}"
    for name in ("ssl_ca_cert", "cert_file", "key_file"):
        path = getattr(configuration, name)
        setattr(configuration, name, held.get(path, path))
    refresh = configuration.refresh_api_key_hook
    if refresh is not None:
        # It sets the paths again too, while other threads connect: in a copy, which shares only the keys of the API.
        configuration.refresh_api_key_hook = lambda configuration: refresh(copy.copy(configuration))


class Cluster(Struct, eq=False):
    """One namespace of a context. Connects at the first request. Thread-safe."""

    _connection: _Connection
    _namespace: str | None = None

    @classmethod
    def of(cls, context: str | None, environ: Environ) -> Cluster:
        return cls(_Connection(context, environ))

    def at(self, namespace: str | None) -> Cluster:
        """Return the same cluster, in another namespace; None: the context's."""
        return Cluster(self._connection, namespace)

    @property
    def api(self) -> Any:
        return self._connection()[0]

    @property
    def namespace(self) -> str:
        return self._namespace or self._connection()[1]

    @property
    def host(self) -> str:
        return str(self.api.api_client.configuration.host)

    @property
    def _target(self) -> str:
        return f"{self._connection.named}, namespace {self.namespace}"

    def hurry(self) -> None:
        """Shorten all time limits from now on: the user waits for the end."""
        self._connection.hurry.request()

    # Requests

    def call(self, doing: str, method: str, *arguments: Any, patience_s: float = PATIENCE_S, **more: Any) -> Json:
        """Call a method of the API with the namespace and these arguments; return the answer's object.

        Repeats what the API server does not answer. `doing` names the operation for the error.
        """

        def ask() -> Json:
            limits = (HURRY_S, HURRY_S) if self._connection.hurry.requested else CALL_S
            answer = getattr(self.api, method)(
                *self._placed(method, arguments), _preload_content=False, _request_timeout=limits, **more
            )
            return cast("Json", json.loads(answer.data or b"{}"))

        return self.patiently(doing, ask, patience_s)

    def _placed(self, method: str, arguments: Sequence[Any]) -> tuple[Any, ...]:
        """Return the path with the namespace, which stands behind an object's name."""
        if "namespaced" not in method:
            return tuple(arguments)
        named = method.startswith(("read", "delete", "patch", "replace"))
        return (arguments[0], self.namespace, *arguments[1:]) if named else (self.namespace, *arguments)

    def patiently(self, doing: str, ask: Callable[[], T], limit_s: float) -> T:
        """Repeat a request while the API server does not answer, at most for so long, and until `hurry`."""

        def once() -> T:
            with self.translated(doing):
                return ask()

        hurry = self._connection.hurry
        limit_s, cancel = (min(limit_s, HURRY_S), None) if hurry.requested else (limit_s, hurry)
        return retrying(once, Policy(when=is_transient, limit_s=limit_s, first_wait_s=0.2), cancel=cancel)

    @contextlib.contextmanager
    def translated(self, doing: str) -> Iterator[None]:
        """Convert the library's errors to loom's."""
        try:
            yield
        except ApiException as error:
            raise self._answer_error(error, doing) from error
        except (urllib3.exceptions.HTTPError, WebSocketException, OSError) as error:
            raise self._no_answer(error, doing) from error

    def _no_answer(self, error: Exception, doing: str) -> LoomError:
        status = getattr(error, "status_code", None)  # of a refused handshake
        if isinstance(status, int):
            return self._status_error(status, _message(getattr(error, "resp_body", None)) or _first_line(error), doing)
        said = _first_line(error)
        if "certificate" in said.lower():
            return EngineUnavailable(
                f"{doing}: no trust between this machine and the cluster at {self.host}: {said} ({self._target})",
                hint="the kubeconfig's certificates have expired, or belong to another cluster: log in again",
                code="CLUSTER_UNAUTHORIZED",
            )
        return EngineUnavailable(
            f"{doing}: the cluster at {self.host} does not answer: {said}",
            hint="`kubectl cluster-info` asks it; a VPN or a tunnel may be down",
            code="CLUSTER_UNAVAILABLE",
        )

    def _answer_error(self, error: ApiException, doing: str) -> LoomError:
        if error.status in (0, None):
            return self._no_answer(error, doing)
        message = _message(error.body) or str(error.reason or error.status)
        return self._status_error(int(error.status or 0), message, doing)

    def _status_error(self, status: int, message: str, doing: str) -> LoomError:
        target = self._target
        anonymous = status == 403 and '"system:anonymous"' in message
        if status == 401 or anonymous:
            how = "got no credentials" if anonymous else "does not accept the credentials"
            return EngineUnavailable(
                f"{doing}: the cluster at {self.host} {how} ({target})",
                hint="they may have expired: log in again; `kubectl auth whoami` tells",
                code="CLUSTER_UNAUTHORIZED",
            )
        if status == 403:
            return _forbidden(message, doing, target)
        if status == 404 and message.startswith("namespaces "):
            return ProviderError(
                f"{doing}: the namespace {self.namespace} does not exist ({target})",
                hint=f"create it (kubectl create namespace {self.namespace}), or name another one: `namespace` of the pool",
                code="CLUSTER_NAMESPACE_UNKNOWN",
            )
        if status == 404:
            return Gone(f"{doing}: {message}")
        if status == 409 and message.endswith("already exists"):
            return Exists(f"{doing}: {message}")
        if status in (429, 500, 502, 503, 504):
            return EngineUnavailable(f"{doing}: {message}", code="CLUSTER_UNAVAILABLE")
        if status in (400, 422):
            return ProviderError(f"{doing}: the cluster refuses it: {message}", code="POD_INVALID")
        return ProviderError(f"{doing}: {message} (status {status})")

    def lines(self, doing: str, method: str, *arguments: Any, **more: Any) -> _Lines:
        """Yield the lines of an answer that goes on, such as a watch or a log, without their ends."""
        with self.translated(doing):
            answer = getattr(self.api, method)(
                *self._placed(method, arguments), _preload_content=False, _request_timeout=(CALL_S[0], WATCH_S), **more
            )
        return _Lines(self, doing, answer)

    def may(self, verb: str, resource: str, subresource: str = "") -> bool:
        """Return whether this user may do it in the namespace."""
        asked = {"namespace": self.namespace, "verb": verb, "resource": resource, "subresource": subresource}
        review = {"spec": {"resourceAttributes": asked}}

        def ask() -> bool:
            api: Any = client.AuthorizationV1Api(self.api.api_client)
            answer = api.create_self_subject_access_review(review, _preload_content=False, _request_timeout=CALL_S)
            return bool(json.loads(answer.data)["status"].get("allowed"))

        return self.patiently(f"asking for the right to {verb} {resource}", ask, PATIENCE_S)

    # Streams

    def websocket(self, pod: str, container: str, command: Sequence[str], *, stdin: bool, tty: bool) -> WebSocket:
        """Start a command in a container; return the connection to its streams."""
        api_client = self.api.api_client
        headers: dict[str, str] = {"sec-websocket-protocol": ",".join(CHANNELS)}
        query: list[tuple[str, str]] = [
            ("container", container),
            *(("command", word) for word in command),
            ("stdin", str(stdin).lower()),
            ("stdout", "true"),
            ("stderr", str(not tty).lower()),
            ("tty", str(tty).lower()),
        ]
        api_client.update_params_for_auth(headers, query, ["BearerToken"], "", "GET", None)
        base = api_client.configuration.host.replace("http", "ws", 1)
        url = f"{base}/api/v1/namespaces/{self.namespace}/pods/{pod}/exec?{urlencode(query, errors='surrogateescape')}"
        connect = partial(
            ws_client.create_websocket, api_client.configuration, url, headers
        )  # has no time limit itself
        with self.translated(f"starting a command in the pod {pod}"):
            return cast("WebSocket", within(CALL_S[1], connect))

    def close(self) -> None:
        self._connection.close()


class _Lines(Struct):
    """An answer's lines, which are read once; `close` ends it from another thread."""

    _cluster: Cluster
    _doing: str
    _answer: Any

    def __iter__(self) -> Iterator[bytes]:
        rest = b""
        try:
            with self._cluster.translated(self._doing):
                for piece in self._answer.stream(65536, decode_content=False):
                    *lines, rest = (rest + piece).split(b"\n")
                    yield from lines
        finally:
            self._answer.close()
        if rest:
            yield rest

    def close(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            # Not the TLS socket's own method, which pulls its state away from under the reader.
            socket.socket.shutdown(self._answer.connection.sock, socket.SHUT_RDWR)


def is_transient(error: BaseException) -> bool:
    """Return whether a later request may get an answer."""
    return isinstance(error, LoomError) and error.code == "CLUSTER_UNAVAILABLE"


_REFUSALS = (
    (
        r"(?:exceeded|failed|unknown for) quota: (.*)",
        "the namespace's quota does not allow it: {}",
        "give the job lower requests and limits, or remove other pods there; `loom doctor --on POOL` prints a pool that fits",
        "CLUSTER_QUOTA",
    ),
    (
        "(.*PodSecurity.*)",
        "the namespace's rules do not allow such a pod: {}",
        (
            "the level `restricted` wants a user in the pool: pod_template: {spec: {securityContext: {runAsNonRoot: true,"
            " runAsUser: 1000, runAsGroup: 1000, fsGroup: 1000}}}; no level but `privileged` allows a job with `privileged`"
        ),
        "CLUSTER_POD_REFUSED",
    ),
    (
        r"((?:minimum|maximum) \S+ usage per .*|\S+ max limit to request ratio per .*|.*denied the request.*)",
        "the namespace's rules do not allow such a pod: {}",
        "change the job's `resources`, or the pool's `pod_template`; `loom doctor --on POOL` asks again without a run",
        "CLUSTER_POD_REFUSED",
    ),
    (
        r"because it is (being terminated)",
        "the namespace is {}",
        "run again in another namespace, or when someone has created this one again",
        "CLUSTER_NAMESPACE_UNKNOWN",
    ),
)
"""For each refusal that is not a missing right: its pattern, and the error's text, hint and code."""


def _forbidden(message: str, doing: str, target: str) -> ProviderError:
    for pattern, text, hint, code in _REFUSALS:
        if found := re.search(pattern, message, re.DOTALL):
            return ProviderError(f"{doing}: {text.format(found[1])} ({target})", hint=hint, code=code)
    return ProviderError(
        f"{doing}: {message} ({target})",
        hint="`loom doctor --on POOL` names each verb that is missing; the Role in loom's guide for clusters has them all\n"
        "a namespace that was deleted, or is misspelled, is refused in the same words: its Roles are gone with it",
        code="CLUSTER_FORBIDDEN",
    )


def _message(body: Any) -> str:
    """Return the API server's words in an answer's body; empty without any."""
    try:
        return str(json.loads(body or b"")["message"])
    except (ValueError, KeyError, TypeError):
        return ""


@contextlib.contextmanager
def _logged() -> Iterator[list[str]]:
    """Collect what the library logs in the block as an error (a credential plugin that failed), instead of printing it."""
    said: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield said
    finally:
        root.removeHandler(handler)


def _first_line(error: BaseException) -> str:
    inner = getattr(error, "reason", None)
    if isinstance(inner, BaseException):
        return _first_line(inner)
    return (str(error).strip() or type(error).__name__).splitlines()[0]
