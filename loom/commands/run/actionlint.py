"""What actionlint says of GitHub's workflows, where this machine has it; loom's own checks don't repeat its advice."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from loom.errors import Problem
from loom.util.yaml_file import YamlFile

CODE = "GH_ACTIONLINT"
_WITHIN_S = 60.0


class _Said(msgspec.Struct):
    message: str
    filepath: str
    line: int
    column: int
    kind: str


def advice(files: Iterable[YamlFile], root: Path) -> Iterator[Problem]:
    """Yield a warning of each thing that it says; nothing without the program, or where it fails."""
    program = shutil.which("actionlint", path=os.environ.get("PATH", os.defpath))
    known = {file.name: file for file in files if file.name.startswith(".github/")}
    if program is None or not known:
        return
    try:
        command = [program, "-no-color", "-format", "{{json .}}", *known]
        ran = subprocess.run(
            command, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_WITHIN_S
        )
        found = msgspec.json.decode(ran.stdout or b"[]", type=list[_Said])
    except (OSError, subprocess.TimeoutExpired, msgspec.DecodeError):
        return
    for said in found:
        if (file := known.get(said.filepath)) is not None:
            yield Problem(
                file=file.name,
                line=said.line,
                column=said.column,
                pointer="/",
                message=f"{said.message} [{said.kind}]",
                code=CODE,
                severity="warning",
                source_line=file.line(said.line),
                length=1,
            )
