"""Files that the failing output names as missing or unusable, and what the checkout shows of them: ignored, CRLF."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from loom import snapshot
from loom.analysis.locations import project_path
from loom.analysis.readings import NamedFile
from loom.errors import LoomError
from loom.plan.clone import Clone
from loom.plan.model import Job, Plan
from loom.storage.selection import PathSelection, pattern_problem
from loom.util import globs
from loom.util.untrusted_files import open_regular

FileFinder = Callable[[Sequence[str]], Mapping[str, NamedFile]]
"""From paths below the project's root to what is true of those that are there."""
MOST_LOOKED_AT = 10
_BEGINNING = 4096

_MISSING = (
    re.compile(r"[Nn]o such file or directory: ['\"](?P<path>[^'\"]+)['\"]"),
    re.compile(r"open (?P<path>\S+): no such file", re.IGNORECASE),
    re.compile(r"ENOENT[^'\"]*['\"](?P<path>[^'\"]+)['\"]"),
    re.compile(
        r"(?:can't open|cannot open|cannot access|cannot stat|can't cd to) (?:file )?['\"‘]?(?P<path>[^'\"’:]+)"
    ),
    re.compile(r"^(?:[^:]*: )*(?:line )?(?:\d+: )?(?P<path>[^\s:'\"]+): [Nn]o such file or directory"),
    re.compile(r"['\"‘`](?P<path>[^'\"’`]+)['\"’`]:? [Nn]o such file"),
    re.compile(r"(?:FileNotFoundException:|rb_sysopen -|access jarfile|-provided path) (?P<path>[^\s:]+)"),
    re.compile(r"cache key.*\"/(?P<path>[^\"]+)\": not found"),
    re.compile(r"not a git repository .*: (?P<path>\.git)$"),
    re.compile(r"No rule to make target '(?P<path>[^']+)'"),
    re.compile(r"(?<![\w./@+-])(?P<path>[\w./@+-]+): (?:not found|cannot execute: required file not found)\s*$"),
    re.compile(r"(?<![\w./@+-])(?P<path>[\w./@+-]+): \S+: bad interpreter"),
)
_NOT_RUN = re.compile(r"(?<![\w./@+-])(?P<path>[\w./@+-]+): Permission denied\s*$")
_BY_SCRIPT = re.compile(r"^(?P<path>[\w./@+-]+): (?:line )?\d+: ")
_CHANGES_DIRECTORY = re.compile(r"(?:^|[;&|\n]\s*)cd\s+['\"]?(?P<path>[^'\";&|\n]+)", re.MULTILINE)


def find_named_files(
    lines: Sequence[str], command: str | None, find_files: FileFinder, *, exit_code: int | None
) -> dict[str, NamedFile]:
    """Return, for each line that names a file, what is true of that file, where that explains the line."""
    named = {line: found for line in lines if (found := _named_in(line, command))}
    there = find_files(list(dict.fromkeys(path for line in reversed(named) for path in named[line])))
    explained = {}
    for line, paths in named.items():
        seen = next((there[path] for path in paths if path in there), None)
        if seen is not None and (kept := _explaining(line, seen, exit_code)) is not None:
            explained[line] = kept
    return explained


def _explaining(line: str, seen: NamedFile, exit_code: int | None) -> NamedFile | None:
    """Return only what has to do with what the line says."""
    if _NOT_RUN.search(line):
        return NamedFile(path=seen.path, executable=False) if exit_code == 126 and not seen.executable else None
    if seen.maker and seen.path not in line:  # a guess, such as that of a module
        seen = replace(seen, maker="")
    if seen.ignored or seen.empty_submodule or seen.maker or seen.undeclared:
        return seen
    if seen.crlf and (_BY_SCRIPT.search(line) or seen.script):
        return NamedFile(path=seen.path, crlf=True)
    if (by := _BY_SCRIPT.search(line)) is not None and project_path(by["path"]) == seen.path:
        return None  # it ran
    is_run = re.search(r": (?:not found|cannot execute|No such file)|bad interpreter", line)
    if is_run and seen.script and not seen.crlf and "/" in line:
        return NamedFile(path=seen.path, interpreter=seen.interpreter)
    return None


def missing_paths(lines: Sequence[str], command: str | None) -> list[str]:
    """Return the paths, relative to the project's root, that the output reports as missing; last one first."""
    return list(dict.fromkeys(path for line in reversed(lines) for path in _named_in(line, command)))


def _named_in(line: str, command: str | None) -> list[str]:
    below = ["", *(f"{match['path'].strip().rstrip('/')}/" for match in _CHANGES_DIRECTORY.finditer(command or ""))]
    known = [project_path(path.strip()) for path in _paths_in(line)]
    return [
        f"{project_path(folder)}{path}"
        for path in known
        if path and not path.startswith(("/", "-", ".."))
        for folder in below
    ]


def _paths_in(line: str) -> list[str]:
    python = re.search(r"No module named '([^']+)'", line)
    if python:
        stem = python[1].replace(".", "/")
        return [f"{base}{stem}{end}" for base in ("", "src/") for end in (".py", "/__init__.py", "")]
    node = re.search(r"Cannot find module '(\.[^']*|/[^']+)'", line)
    if node:
        return [f"{node[1]}{end}" for end in ("", ".js", ".json", ".ts", "/index.js")]
    patterns = (*_MISSING, _NOT_RUN, _BY_SCRIPT)
    return [match["path"] for pattern in patterns for match in [pattern.search(line)] if match]


# -- of other jobs --------------------------------------------------------------------------------------------------------


def makers(plan: Plan, job: Job, paths: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the other job of which each path is an artifact, and why this job does not get it; empty if it takes it.

    A pattern for everything says nothing of one path, a job that is not taken nothing of one that this job makes itself.
    """
    own = PathSelection(filter(_tells, job.artifacts.paths if job.artifacts is not None else ()))
    if job.artifacts_from is not None:
        taken = set(job.artifacts_from)
    elif job.needs is not None:
        taken = {need.job for need in job.needs if need.artifacts}
    else:
        before = plan.stages[: plan.stages.index(job.stage)] if job.stage in plan.stages else ()
        taken = {each.id for each in plan.jobs if each.stage in before}
    not_taken = f"{job.id} does not take (needs, dependencies)"
    made = [
        *(
            (each.id, each.artifacts.paths, each.artifacts.exclude, "" if each.id in taken else not_taken)
            for each in plan.jobs
            if each.artifacts is not None and each.id != job.id
        ),
        *((left.id, left.artifacts, (), f"this run left out ({left.reason})") for left in plan.left_out),
    ]
    made.sort(key=lambda each: bool(each[3]))
    # Of several, the first that it takes counts, else the first.
    return {
        path: (maker, why)
        for maker, patterns, exclude, why in reversed(made)
        for selection in (PathSelection(filter(_tells, patterns), filter(_tells, exclude)),)
        for path in paths
        if selection.takes(path) and not (why and own.takes(path))
    }


def undeclared(job: Job, seen: Mapping[str, NamedFile]) -> dict[str, NamedFile]:
    """Return those files of the project that the job does not get, as they are not among its inputs."""
    declared = [globs.compile(each, below=True) for each in job.inputs or ()]
    left = {path: one for path, one in seen.items() if not any(glob.fullmatch(path) for glob in declared)}
    return {path: replace(one, undeclared=job.id) for path, one in left.items() if not one.ignored}


def _tells(pattern: str) -> bool:
    return pattern_problem(pattern) is None and pattern.strip("*./") != ""


# -- in the checkout ------------------------------------------------------------------------------------------------------


def find_files_below(root: Path, paths: Sequence[str], clone: Clone | None = None) -> dict[str, NamedFile]:
    """Look at those of `paths` that are there. Asks git only about them, and only if there are any."""
    listed = _beginning(root / ".gitmodules").decode("utf-8", "replace")
    known = re.findall(r"^\s*path\s*=\s*(.+?)\s*$", listed, re.MULTILINE)
    left = [] if clone is None else [module for module in known if not clone.takes(module)]
    modules = [module for module in known if not (root / module).is_dir() or not any((root / module).iterdir())]
    found = {
        path: NamedFile(path=module, empty_submodule=True, not_cloned=module in left)
        for path in paths
        for module in dict.fromkeys((*left, *modules))
        if path == module or path.startswith(f"{module}/")
    }
    there = [path for path in paths if path not in found and os.path.lexists(root / path)][:MOST_LOOKED_AT]
    if not there:
        return found
    rules = _ignored(root, there)
    return found | {path: _seen(root, path, rules) for path in there}


def _seen(root: Path, path: str, rules: Mapping[str, str]) -> NamedFile:
    ignored = next((rule for name, rule in rules.items() if path == name or path.startswith(f"{name}/")), None)
    beginning = _beginning(root / path)
    first = beginning.partition(b"\n")[0]
    words = first[2:].decode("utf-8", "replace").split() if first.startswith(b"#!") else []
    return NamedFile(
        path=path,
        ignored=ignored is not None,
        rule=ignored,
        crlf=b"\r\n" in beginning,
        script=bool(words),
        interpreter=words[-1] if words and words[0].endswith("/env") else words[0] if words else None,
        executable=os.access(root / path, os.X_OK) or not beginning,
    )


def _beginning(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(_BEGINNING)
    except (OSError, ValueError):
        return b""


def _ignored(root: Path, there: Sequence[str]) -> dict[str, str]:
    """Return the paths that git ignores, and by which rule."""

    try:
        source = snapshot.discover(root, environ=os.environ)
        rules = {path: snapshot.ignore_rule(source, path) for path in there}
        return {path: snapshot.readable(str(rule)) for path, rule in rules.items() if rule is not None and rule.ignores}
    except (LoomError, OSError):
        return {}
