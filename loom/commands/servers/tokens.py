"""Find the user's token for one server. It is sent to that server alone."""

from __future__ import annotations

import netrc
from collections.abc import Callable
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from loom.commands.servers import JobAddress
from loom.config import Config
from loom.errors import SecretError
from loom.plan.model import Secret
from loom.secrets import lookup
from loom.util import yaml_file
from loom.util.yaml_file import Node, fields_of
from loom.values import Environ

_VARIABLES = {"gitlab": ("GITLAB_TOKEN",), "github": ("GH_TOKEN", "GITHUB_TOKEN")}
NAMED = {"gitlab": ("GITLAB_HOST", "CI_SERVER_URL"), "github": ("GH_HOST", "GITHUB_SERVER_URL")}
_DEFAULT = {"gitlab": "gitlab.com", "github": "github.com"}
_CONFIGURED = {"gitlab": ("glab-cli", "config.yml"), "github": ("gh", "hosts.yml")}
SCOPE = {
    "gitlab": "a personal or project access token with the scope read_api (variables: of a maintainer)",
    "github": "a token with read access to Actions (classic: repo), and to Variables",
}


def advice(address: JobAddress) -> str:
    """Return the advice how to give a token: its scope, and the stores that are read."""
    variable = _VARIABLES[address.kind][-1]
    tool = "glab" if address.kind == "gitlab" else "gh"
    return (
        f"give {SCOPE[address.kind]}:\n"
        f"`keyring set loom {address.host}`, `{tool} auth login --hostname {address.host}`, ~/.netrc, or {variable}"
    )


def token_for(
    address: JobAddress,
    environ: Environ,
    config: Config,
    root: Path,
    *,
    may_send: Callable[[str], bool],
) -> str | None:
    """Return the token for this server: from the keyring, `glab`'s or `gh`'s configuration, netrc, the environment.

    One of the environment is for the server that is named beside it, else the public one; `may_send`, called with its name,
    decides for any other server.
    """
    return (
        _stored(address.host, environ, config, root)
        or _configured(address, environ)
        or _netrc_token(address, environ)
        or _environment_token(address, environ, may_send)
    )


def _stored(host: str, environ: Environ, config: Config, root: Path) -> str | None:
    wanted = Secret(name="token", ref=f"keyring://loom/{host}", required=False)
    try:
        values = lookup.resolve((wanted,), environ=environ, root=root, config=config).values
    except SecretError:
        return None
    return values["token"].decode("utf-8", "replace").strip() or None if "token" in values else None


def is_configured(kind: Literal["gitlab", "github"], host: str, environ: Environ) -> bool:
    """Return whether the user's `glab` or `gh` knows the host."""
    return _host_settings(kind, host, environ) is not None


def _host_settings(kind: str, host: str, environ: Environ) -> Node | None:
    base = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME", "/nonexistent"), ".config"))
    path = Path(base, *_CONFIGURED[kind])
    try:
        root = yaml_file.read(path, str(path)).root
    except OSError:
        return None
    return fields_of(fields_of(root).get("hosts") if kind == "gitlab" else root).get(host)


def _configured(address: JobAddress, environ: Environ) -> str | None:
    mine = fields_of(_host_settings(address.kind, address.host, environ))
    for key in ("token", "oauth_token"):
        node = mine.get(key)
        if node is not None and not node.is_mapping and isinstance(node.value, str) and node.value:
            return node.value
    return None


def _netrc_token(address: JobAddress, environ: Environ) -> str | None:
    path = Path(environ.get("NETRC") or Path(environ.get("HOME", "/nonexistent"), ".netrc"))
    try:
        found = netrc.netrc(str(path)).hosts.get(urlsplit(address.server).hostname or "")
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        return None
    return found[2] or None if found else None


def _environment_token(address: JobAddress, environ: Environ, may_send: Callable[[str], bool]) -> str | None:
    name = next((name for name in _VARIABLES[address.kind] if environ.get(name)), None)
    named = next((environ[name] for name in NAMED[address.kind] if environ.get(name)), _DEFAULT[address.kind])
    if name is None or not (address.host == (urlsplit(named).netloc or named.partition("/")[0]) or may_send(name)):
        return None
    return environ[name]
