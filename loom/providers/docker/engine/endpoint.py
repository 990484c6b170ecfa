"""Find the engine's address like the `docker` command, and give advice when no engine answers."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from loom.errors import EngineUnavailable, LoomError, RequestError
from loom.providers.docker.engine.errors import first_line, root_cause

DEFAULT_SOCKET = "unix:///var/run/docker.sock"


class Endpoint(Struct, frozen=True, kw_only=True):
    """An engine's address and its source (`DOCKER_HOST`, a context, the default)."""

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
        """Return whether the engine probably has access to this machine's file system."""
        return self.url.startswith(("unix://", "/"))

    def __str__(self) -> str:
        return f"{self.url} ({self.source})"


def endpoint_of(environ: Mapping[str, str]) -> Endpoint:
    """Return the engine that `environ` names. RequestError for a missing or unreadable context."""
    if host := environ.get("DOCKER_HOST"):
        return Endpoint(url=_with_scheme(host), source="DOCKER_HOST", **_tls_of(environ))
    directory = config_dir(environ)
    if name := environ.get("DOCKER_CONTEXT"):
        source = f"context {name}, from DOCKER_CONTEXT"
    else:
        name = _current_context(directory)
        source = f"context {name}"
    if name in ("", "default"):
        return Endpoint(url=DEFAULT_SOCKET, source="the default", **_tls_of(environ))
    return _context(directory, name, source)


def config_dir(environ: Mapping[str, str]) -> Path:
    """Return the directory of the `docker` command's configuration."""
    if directory := environ.get("DOCKER_CONFIG"):
        return Path(directory)
    return Path(environ.get("HOME") or Path("~").expanduser()) / ".docker"


def _current_context(directory: Path) -> str:
    try:
        config = json.loads((directory / "config.json").read_bytes())
    except (OSError, ValueError):
        return ""  # like the docker command, continue without it
    return str(config.get("currentContext") or "") if isinstance(config, dict) else ""


def _context(directory: Path, name: str, source: str) -> Endpoint:
    digest = hashlib.sha256(name.encode()).hexdigest()
    meta = directory / "contexts" / "meta" / digest / "meta.json"
    try:
        endpoint = json.loads(meta.read_bytes())["Endpoints"]["docker"]
        url = _with_scheme(endpoint["Host"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"the Docker context {name!r} can't be read: {meta}: {error}",
            hint="see `docker context ls`; choose one with `docker context use NAME`, or set DOCKER_HOST",
        ) from error
    tls = directory / "contexts" / "tls" / digest / "docker"
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
    directory = Path(environ.get("DOCKER_CERT_PATH") or config_dir(environ))
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


def unavailable(endpoint: Endpoint, environ: Mapping[str, str], error: BaseException) -> LoomError:
    """Return the error for an endpoint where no engine answers."""
    cause = root_cause(error)
    # The ssl module's errors are OSErrors with their own numbers.
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
            reason, move = first_line(cause), "see `docker info` for what the engine says"
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
    """Return the error for an engine behind ssh; ssh's message has the reason."""
    message = first_line(cause)
    if isinstance(cause, ValueError):
        return RequestError(f"{endpoint.source}: {message}")
    by_hand = endpoint.url.rstrip("/").removeprefix("ssh://")
    by_hand = f"ssh ssh://{by_hand.partition('/')[0]} docker version"
    known: Mapping[str, str] = {
        "can't be run": "install an ssh client (openssh-client)",
        "key is not the one that is known": "find out which; then `ssh-keygen -R HOST` forgets the old key",
        "Host key verification failed": f"connect once by hand and look at the key that it shows: {by_hand}",
        "Permission denied (": "loom asks for no password: add your key to the agent (ssh-add), or name it in ~/.ssh/config",
        "command not found": "install the docker command there, in the PATH of a non-login shell",
        "connect: permission denied": "join the group that may use it there (`sudo usermod -aG docker USER`)",
        "raw stream connection": "start Docker there, or name its socket: ssh://USER@HOST/path/to/docker.sock",
        "onnect to the Docker daemon": "start Docker there, or name its socket: ssh://USER@HOST/path/to/docker.sock",
    }
    move = next((move for words, move in known.items() if words in message), f"try it by hand: {by_hand}")
    return EngineUnavailable(f"no Docker engine answers at {endpoint}: {message}", hint=move)


def _other_engines(endpoint: Endpoint, environ: Mapping[str, str]) -> list[str]:
    """Return commands that would use other engines of this machine."""
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
