"""Variables that a job reports for later jobs: files of lines `NAME=value`, by GitLab's rules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path

from loom.errors import ArtifactError
from loom.plan.reported import is_looms
from loom.storage.artifacts import read_reports
from loom.storage.workspace import WorkspaceView
from loom.util import atomic, jsons
from loom.util.untrusted_files import read_regular

MAX_BYTES = 5 * 1024
"""The limit for one file, as in GitLab."""
MAX_VARIABLES = 150
"""The limit for one job: GitLab.com's largest. Others allow fewer (20 where an own server's default was never changed)."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def read(patterns: Iterable[str], view: WorkspaceView) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the variables of all files, and the patterns without a file. ArtifactError for an invalid line or file."""
    found = read_reports(patterns, view, lambda file, path: parsed(file.read(MAX_BYTES), path))
    for problem in found.problems:
        raise _invalid(problem)
    variables = dict(chain.from_iterable(each.items() for each in found.read))
    if len(variables) > MAX_VARIABLES:
        raise _invalid(f"it has {len(variables)} variables, and no plan of GitLab allows more than {MAX_VARIABLES}")
    return variables, found.missing


def parsed(content: bytes, name: str) -> dict[str, str]:
    """Parse a file: a value is all of its line but white space around it; quotes belong to it."""
    if len(content) >= MAX_BYTES:
        raise _invalid(f"{name}: a dotenv report has less than {MAX_BYTES // 1024} KiB")
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError as error:
        raise _invalid(f"{name}: it is not UTF-8") from error
    variables = {}
    for number, line in enumerate(lines, start=1):
        before, given, value = line.partition("=")
        variable = before.strip()
        if not given or not _NAME.fullmatch(variable):
            said = "empty" if not line.strip() else "a comment" if line.lstrip().startswith("#") else "not NAME=value"
            raise _invalid(f"{name}:{number}: the line is {said}")
        if is_looms(variable):
            raise _invalid(f"{name}:{number}: {variable} is a variable of loom's own")
        variables[variable] = value.strip()
    return variables


def _invalid(problem: str) -> ArtifactError:
    return ArtifactError(
        f"the dotenv report can't be read: {problem}",
        hint="write one NAME=value in each line: no empty lines, comments, or values of several lines",
        code="DOTENV_INVALID",
    )


def reported_path(archive: Path) -> Path:
    """Return the path of a job's reported variables in the record, beside its artifacts."""
    return archive.with_name("variables.json")


def keep(variables: Mapping[str, str], archive: Path) -> None:
    """Keep a job's variables for runs that do not run it again."""
    atomic.write(reported_path(archive), jsons.encode_file(variables))


def kept(archive: Path) -> dict[str, str]:
    """Return the variables that `keep` saved; none if the file is gone."""
    with suppress(OSError, ValueError):
        found = jsons.decode(read_regular(reported_path(archive)))
        if isinstance(found, dict):
            return {str(name): str(value) for name, value in found.items()}
    return {}
