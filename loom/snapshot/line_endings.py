"""Line endings as in CI: by the repository's attributes and git's defaults, not by the user's `core.autocrlf` and `core.eol`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from loom.snapshot import git
from loom.snapshot.filters import file_mode

KEYS = ("core.autocrlf", "core.eol")
DEFAULTS = (("core.autocrlf", "false"), ("core.eol", "lf"))


def by_default(config: Mapping[str, tuple[str, ...]]) -> bool:
    """Return whether git's settings are those of CI."""
    autocrlf, eol = (config.get(key, ("",))[-1].lower() for key in KEYS)
    return autocrlf in ("", "false", "no", "off", "0") and eol in ("", "lf", "native")


def restore(environment: Mapping[str, str], workspace: Path, *, autocrlf: bool) -> list[str]:
    """Give the workspace's text files the line feeds that git would store for them and check out; return their paths.

    `environment` leads git to the workspace and its index. `autocrlf`: files without attributes are converted too.
    """
    changed = []
    for item in git.nul_list(git.run(("ls-files", "-z", "--eol", "--cached", "--others"), environment, cwd=workspace)):
        about, _, name = item.partition(b"\t")
        stored, here, attributes = about.decode().split(None, 2) if about.count(b" ") else ("", "", "")
        path = os.fsdecode(name)
        if path not in changed and here in ("w/crlf", "w/mixed") and _is_stored_with_lf(stored, attributes, autocrlf):
            changed += [path] if _rewrite(workspace / path) else []
    return changed


def _is_stored_with_lf(stored: str, attributes: str, autocrlf: bool) -> bool:
    words = attributes.removeprefix("attr/").split()
    if "-text" in words or "eol=crlf" in words or stored in ("i/crlf", "i/mixed"):
        return False
    return autocrlf or not {"text", "text=auto", "eol=lf"}.isdisjoint(words)


def _rewrite(file: Path) -> bool:
    if file_mode(file) is None:
        return False
    status = file.stat()
    file.write_bytes(file.read_bytes().replace(b"\r\n", b"\n"))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    return True
