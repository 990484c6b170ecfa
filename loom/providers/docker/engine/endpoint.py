"""Find the engine's address like the `docker` command, and give advice when no engine answers."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from loom.errors import EngineUnavailable, RequestError
from loom.providers.docker.engine.errors import NO_LISTENER, NO_SOCKET, NOT_ALLOWED, explanation, first_line, root_cause
from loom.values import Environ, Immutable

DEFAULT_SOCKET = "unix:///var/run/docker.sock"
_START = (
    "start it (`sudo systemctl start docker`, or `systemctl --user start docker`; podman: `... start podman.socket`)"
)
_TLS = (
    "set DOCKER_TLS_VERIFY=1, and DOCKER_CERT_PATH to the folder of the engine's ca.pem and your cert.pem and key.pem"
    " (default: ~/.docker)"
)
_MOVES = {
    NO_SOCKET: _START,
    NO_LISTENER: _START,
    NOT_ALLOWED: "join the group that may use it (`sudo usermod -aG docker $USER`, then log in again)",
}
_SSH = re.compile(r"ssh://([^\s@:/-][^\s@:/]*@)?([^\s@:/\[-][^\s@:/]*|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?(/\S*)?")
_BEHIND_SSH = {
    "can't be run": "install an ssh client (openssh-client)",
    "key is not the one that is known": "find out which; then `ssh-keygen -R HOST` forgets the old key",
    "Host key verification failed": "connect once by hand and look at the key that it shows",
    "Permission denied (": "loom asks for no password: add your key to the agent (ssh-add), or name it in ~/.ssh/config",
}
"""The next move by words of ssh's message."""
_PROXIES = {
    "httpProxy": "HTTP_PROXY",
    "httpsProxy": "HTTPS_PROXY",
    "ftpProxy": "FTP_PROXY",
    "noProxy": "NO_PROXY",
    "allProxy": "ALL_PROXY",
}


class Endpoint(Immutable):
    """An engine's address and its source (`DOCKER_HOST`, a context, the default)."""

    url: str
    source: str
    certificates: Path | None = None
    """The directory of `ca.pem`, `cert.pem` and `key.pem`, for TLS."""
    verify: bool = False

    @property
    def ssh(self) -> bool:
        return self.url.startswith("ssh://")

    @property
    def local(self) -> bool:
        """Return whether the engine probably has access to this machine's file system."""
        return self.url.startswith("unix://")

    def __str__(self) -> str:
        return f"{self.url} ({self.source})"


def endpoint_of(environ: Environ) -> Endpoint:
    """Return the engine that `environ` names. RequestError for a missing or unreadable context, or an invalid address."""
    directory = config_dir(environ)
    name, url, source = environ.get("DOCKER_CONTEXT"), DEFAULT_SOCKET, "the default"
    if host := environ.get("DOCKER_HOST"):
        url, source = host, "DOCKER_HOST"
    elif (context := name or str(_configured(directory, "currentContext") or "")) not in ("", "default"):
        return _context(directory, context, ", from DOCKER_CONTEXT" if name else "")
    verify = bool(environ.get("DOCKER_TLS_VERIFY"))
    certificates = Path(environ.get("DOCKER_CERT_PATH") or directory) if verify or environ.get("DOCKER_TLS") else None
    return Endpoint(url=_checked(url, source), source=source, certificates=certificates, verify=verify)


def config_dir(environ: Environ) -> Path:
    """Return the directory of the `docker` command's configuration."""
    if directory := environ.get("DOCKER_CONFIG"):
        return Path(directory)
    return Path(environ.get("HOME") or Path("~").expanduser()) / ".docker"


def _configured(directory: Path, key: str) -> Any:
    try:
        config = json.loads((directory / "config.json").read_bytes())
    except (OSError, ValueError):
        return None  # like the docker command, continue without it
    return config.get(key) if isinstance(config, dict) else None


def proxies_of(endpoint: Endpoint, environ: Environ) -> dict[str, str]:
    """Return the variables that `docker run` gives each container, by the proxies of the `docker` command's configuration."""
    found = _configured(config_dir(environ), "proxies")
    found = (found.get(endpoint.url) or found.get("default")) if isinstance(found, dict) else None
    known = {key: str(found[key]) for key in _PROXIES if found.get(key)} if isinstance(found, dict) else {}
    return {name: value for key, value in known.items() for name in (_PROXIES[key], _PROXIES[key].lower())}


def _context(directory: Path, name: str, origin: str) -> Endpoint:
    digest = hashlib.sha256(name.encode()).hexdigest()
    meta = directory / "contexts" / "meta" / digest / "meta.json"
    try:
        endpoint = json.loads(meta.read_bytes())["Endpoints"]["docker"]
        url = str(endpoint["Host"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = "does not exist" if isinstance(error, FileNotFoundError) else f"can't be read: {meta}: {error}"
        raise RequestError(
            f"the Docker context {name!r} {why}",
            hint="see `docker context ls`; choose one with `docker context use NAME`, or set DOCKER_HOST",
        ) from error
    source, tls = f"context {name}{origin}", directory / "contexts" / "tls" / digest / "docker"
    return Endpoint(
        url=_checked(url, source),
        source=source,
        certificates=tls if tls.is_dir() else None,
        verify=not endpoint.get("SkipTLSVerify", False),
    )


def _checked(url: str, source: str) -> str:
    if url.startswith("ssh://") and not _SSH.fullmatch(url):
        raise RequestError(
            f"{source}: expected the engine's address as ssh://USER@HOST:PORT/SOCKET, without a password"
        )
    return f"unix://{url}" if url.startswith("/") else url


def unavailable(endpoint: Endpoint, environ: Environ, error: BaseException) -> EngineUnavailable:
    """Return the error for an endpoint where no engine answers."""
    cause = root_cause(error)
    if endpoint.ssh:
        from loom.providers.docker.engine.ssh import SshFailed  # late: as in `connect`

        reason = first_line(cause)
        move = next((move for words, move in _BEHIND_SSH.items() if words in reason), "try `ssh` by hand")
        if not isinstance(cause, SshFailed):  # ssh has connected, but nothing listens at the forwarded address
            move = "start Docker there, or name its socket: ssh://USER@HOST/path/to/docker.sock"
        return EngineUnavailable(f"no Docker engine answers at {endpoint}: {reason}", hint=move)
    reason = explanation(error)
    of_tls = "HTTPS server" in reason or "certificate" in reason
    move = _MOVES.get(reason) or (_TLS if of_tls else "see `docker info` for what the engine says")
    hints = [f"{move}, or name another engine with DOCKER_HOST or `docker context use`"]
    runtime = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    sockets = (DEFAULT_SOCKET[7:], f"{runtime}/docker.sock", f"{runtime}/podman/podman.sock", "/run/podman/podman.sock")
    hints += [
        f"one listens at {path}: DOCKER_HOST=unix://{path} loom ..."
        for path in sockets
        if f"unix://{path}" != endpoint.url and os.access(path, os.W_OK)
    ]
    return EngineUnavailable(f"no Docker engine answers at {endpoint}: {reason}", hint="\n".join(hints))
