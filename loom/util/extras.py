"""The optional packages of loom: how to bring one into the environment that this loom runs in."""

from __future__ import annotations

import re
import shlex
import sys
import sysconfig
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

_PACKAGE = "loom-ci"


def install_command(extra: str) -> str:
    """Return the command that adds an extra's packages to this loom, by the tool that installed loom.

    loom is on no index: an installer would not find `loom-ci[extra]`.
    """
    needs = _needs(extra)
    if needs is None:
        return f"pipx install --force '.[{extra}]' in a checkout of loom"
    environment = Path(sys.prefix)
    if (environment / "pipx_metadata.json").exists():
        return shlex.join(["pipx", "inject", environment.name, *needs])
    if (environment / "uv-receipt.toml").exists() or not _has_pip():
        return shlex.join(["uv", "pip", "install", "--python", sys.executable, *needs])
    managed = sys.prefix == sys.base_prefix and Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").exists()
    against = ["--break-system-packages"] if managed else []
    return shlex.join([sys.executable, "-I", "-m", "pip", "install", *against, *needs])


def _needs(extra: str) -> list[str] | None:
    """Return the requirements of the extra; None where loom is not installed as a package."""
    metadata = import_module("importlib.metadata")  # 20 ms, for an error
    try:
        listed = metadata.requires(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    found = (re.fullmatch(rf"(.*?)\s*; extra == ['\"]{extra}['\"]", text) for text in listed)
    return [match[1].strip() for match in found if match] or None


def _has_pip() -> bool:
    return find_spec("pip") is not None
