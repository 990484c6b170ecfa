"""Find the user's registry credentials: in Docker's configuration (`docker login`) or a credential helper.

Not by the SDK: it reads the process's own environment, treats a helper's failure as fatal, and reports neither the file
nor the helper.
"""

from __future__ import annotations

import base64
import binascii
import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DOCKER_HUB_KEY = "https://index.docker.io/v1/"
_HELPER_TIMEOUT_S = 30


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """`auth` is the value for the engine's API (empty: anonymous), `source` its origin for messages; `problem` is set
    when configured credentials are unavailable.
    """

    source: str
    auth: Mapping[str, str] = field(default_factory=dict, repr=False)
    problem: str | None = None


def credentials_for(registry: str, environ: Mapping[str, str]) -> Credentials:
    """Never raises: a failure is a `problem`, and the pull continues anonymously."""
    folder = environ.get("DOCKER_CONFIG") or str(Path(environ.get("HOME") or "~").expanduser() / ".docker")
    path = Path(folder) / "config.json"
    config: Any = {}
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        return Credentials(source="none", problem=f"{path} can't be read: {error}")
    if not isinstance(config, dict):
        return Credentials(source="none", problem=f"{path} is not a JSON object")
    key = DOCKER_HUB_KEY if registry == "docker.io" else registry
    problem = None
    helpers = config.get("credHelpers")
    helper = (helpers.get(registry) if isinstance(helpers, dict) else None) or config.get("credsStore")
    if isinstance(helper, str) and helper:
        auth, problem = _ask_helper(helper, key, environ)
        if auth:
            return Credentials(source=f"docker-credential-{helper}", auth=auth)
    auths = config.get("auths")
    for server, entry in auths.items() if isinstance(auths, dict) else ():
        if _host(server) == _host(key) and isinstance(entry, dict):
            try:
                auth = _from_entry(entry, key)
            except (ValueError, binascii.Error):
                return Credentials(source="none", problem=f"{path}: the entry for {server} is not valid")
            if auth:
                return Credentials(source=str(path), auth=auth)
    return Credentials(source="none", problem=problem)


def _host(server: str) -> str:
    host = server.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return "index.docker.io" if host in ("docker.io", "registry-1.docker.io") else host


def _from_entry(entry: Mapping[str, Any], server: str) -> dict[str, str]:
    if entry.get("identitytoken"):
        return {"identitytoken": str(entry["identitytoken"]), "serveraddress": server}
    if entry.get("registrytoken"):
        return {"registrytoken": str(entry["registrytoken"]), "serveraddress": server}
    if entry.get("auth"):
        user, colon, password = base64.b64decode(str(entry["auth"]), validate=True).decode().partition(":")
        if not colon:
            raise ValueError("no colon in auth")
        return {"username": user, "password": password.rstrip("\0"), "serveraddress": server}
    if entry.get("username"):
        return {"username": str(entry["username"]), "password": str(entry.get("password", "")), "serveraddress": server}
    return {}


def _ask_helper(helper: str, server: str, environ: Mapping[str, str]) -> tuple[dict[str, str], str | None]:
    """Return the helper's answer or nothing; "not found" is no problem."""
    program = f"docker-credential-{helper}"
    executable = shutil.which(program, path=environ.get("PATH"))
    if executable is None:
        return {}, f"the credential helper {program} is not installed"
    try:
        done = subprocess.run(
            [executable, "get"],
            input=server.encode(),
            capture_output=True,
            env=dict(environ),
            timeout=_HELPER_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {}, f"the credential helper {program} did not answer within {_HELPER_TIMEOUT_S} s"
    except OSError as error:
        return {}, f"the credential helper {program} could not be started: {error.strerror}"
    if done.returncode != 0:
        # Helpers print errors to standard output.
        output = (done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")).strip()
        if "credentials not found" in output.lower():
            return {}, None
        return {}, f"the credential helper {program} failed: {output.splitlines()[0] if output else done.returncode}"
    try:
        answer = json.loads(done.stdout)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, KeyError, TypeError):
        return {}, f"the credential helper {program} did not return credentials"
    if not user and not secret:
        return {}, None
    if user == "<token>":
        return {"identitytoken": secret, "serveraddress": server}, None
    return {"username": user, "password": secret, "serveraddress": server}, None
