"""Syntax errors in a workflow's steps, as the shells of this machine report them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from loom.config import AUTO_SHELL

_AT_ONCE = 100
_READ_ALL = """
for file in "$1"/*[0-9]; do
  "$2" ${3:+-O "$3"} -n "$file" 2>"$file.err"
done
"""


def syntax_errors(scripts: Iterable[tuple[Sequence[str], str]]) -> Iterator[tuple[int, int, str]]:
    """Check each `(shell, script)` with the shell itself; yield positions, lines and errors. Skip shells that are not here."""
    by_shell: dict[str, dict[int, str]] = {}
    for position, (shell, script) in enumerate(scripts):
        name = "bash" if tuple(shell) == AUTO_SHELL else shell[0].rpartition("/")[2]
        if name in ("bash", "sh", "dash", "ash") and shutil.which(name):
            by_shell.setdefault(name, {})[position] = script
    for name, texts in by_shell.items():
        yield from _read_by(name, texts)


def _read_by(name: str, texts: dict[int, str]) -> Iterator[tuple[int, int, str]]:
    """Check many at once, and individually only if one is invalid, because processes are slow."""
    positions = list(texts)
    groups = [positions[start : start + _AT_ONCE] for start in range(0, len(positions), _AT_ONCE)]
    joined = ["".join(f"{{ :\n{texts[position]}\n}}\n" for position in group) for group in groups]
    suspects = [
        position for group, output in zip(groups, _errors_by(name, joined), strict=True) if output for position in group
    ]
    for position, output in zip(suspects, _errors_by(name, [texts[position] for position in suspects]), strict=True):
        if match := re.match(r"\S*/\d+: (?:line )?(\d+): (.*)", output):
            yield position, int(match[1]), f"{name} can't read it: {match[2]}"


def _errors_by(name: str, scripts: Sequence[str]) -> list[str]:
    """Return the output of `name -n` for each script."""
    if not scripts:
        return []
    with tempfile.TemporaryDirectory(prefix="loom-check-") as folder:
        for number, text in enumerate(scripts):
            (Path(folder) / str(number)).write_bytes(text.encode("utf-8", "surrogateescape") + b"\n")
        # A script enables extended globs before it uses them, which -n does not see.
        option = "extglob" if name == "bash" else ""
        environ = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        command = ("sh", "-c", _READ_ALL, "sh", folder, name, option)
        subprocess.run(command, env=environ, stdin=subprocess.DEVNULL, check=False, timeout=60)
        return [(Path(folder) / f"{number}.err").read_text("utf-8", "replace") for number in range(len(scripts))]
