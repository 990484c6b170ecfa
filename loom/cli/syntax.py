"""What the shells of this machine can't read of a workflow's steps."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from loom.config import AUTO_SHELL
from loom.workflow.scripts import POSIX_SHELLS, Found

_READ_ALL = """
for file in "$1"/*; do
  "$2" ${3:+-O "$3"} -n "$file" 2>&1 | sed -n 1p >"$file.said"
done
"""


def syntax_errors(scripts: Iterable[tuple[Sequence[str], str]]) -> Iterator[tuple[int, Found]]:
    """What the shells of this machine can't read of `(shell, script)`, by position. Shells that are not here say nothing."""
    by_shell: dict[str, dict[int, str]] = {}
    for position, (shell, script) in enumerate(scripts):
        name = "bash" if tuple(shell) == AUTO_SHELL else shell[0].rpartition("/")[2]
        if name in ("bash", *POSIX_SHELLS) and shutil.which(name):
            by_shell.setdefault(name, {})[position] = script
    for name, texts in by_shell.items():
        yield from _read_by(name, texts)


def _read_by(name: str, texts: dict[int, str]) -> Iterator[tuple[int, Found]]:
    with tempfile.TemporaryDirectory(prefix="loom-check-") as folder:
        for position, text in texts.items():
            (Path(folder) / str(position)).write_bytes(text.encode("utf-8", "surrogateescape") + b"\n")
        # Extended globs are a setting that a script turns on before it uses them, and that -n does not see.
        option = "extglob" if name == "bash" else ""
        environ = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        subprocess.run(
            ("sh", "-c", _READ_ALL, "sh", folder, name, option), env=environ, stdin=subprocess.DEVNULL, check=False
        )
        for position in texts:
            said = (Path(folder) / f"{position}.said").read_text("utf-8", "replace")
            if match := re.match(r"\S*/\d+: (?:line )?(\d+): (.*)", said):
                yield position, Found(number=int(match[1]), text="", message=f"{name} can't read it: {match[2]}")
