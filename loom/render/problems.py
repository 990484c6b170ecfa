"""Render problems in users' files as text and in machine-readable formats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from msgspec.structs import asdict

from loom import __version__
from loom.errors import LoomError, Problem, WorkflowError
from loom.record.workflow_commands import annotation
from loom.util.controls import shown

_WIDEST = 160


def error_lines(error: LoomError) -> Iterator[str]:
    """Format what is printed of an error: its problems, or its message, and the hint."""
    if isinstance(error, WorkflowError):
        yield from problem_lines(error.problems)
    else:
        yield shown(f"loom: {error.message}")
    for line in (error.hint or "").splitlines():
        yield shown(f"  {line}")


def problem_lines(problems: Iterable[Problem]) -> Iterator[str]:
    """Format position, reason, and the source line with a marker."""
    for problem in problems:
        label = "" if problem.severity == "error" else f"{problem.severity}: "
        what = f"{problem.code} {problem.pointer}: {problem.message}"
        yield shown(f"{problem.file}:{problem.line}:{problem.column}: {label}{what}")
        if problem.source_line is not None and problem.source_line.strip():
            gutter = f"{problem.line:>5} | "
            source, column = _window(problem.source_line.replace("\t", " "), problem.column)
            room = max(1, len(source) - column + 1)
            yield gutter + shown(source)
            yield " " * (len(gutter) - 2) + "| " + " " * (column - 1) + "^" * max(1, min(problem.length, room))


def _window(source: str, column: int) -> tuple[str, int]:
    """Cut a long line around the marker; return it with the marker's new position."""
    if len(source) <= _WIDEST:
        return source, column
    start = max(0, min(column - 1 - _WIDEST // 2, len(source) - _WIDEST))
    cut = source[start : start + _WIDEST]
    return ("…" + cut[1:] if start else cut), column - start


def problem_document(problem: Problem) -> dict[str, Any]:
    fields = asdict(problem)
    return {"source": fields.pop("source_line"), **fields}


def check_document(workflow_path: str, problems: Sequence[Problem], *, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the document of `loom check --format json`."""
    counts = {severity: sum(1 for p in problems if p.severity == severity) for severity in ("error", "warning")}
    return {
        "schema_version": "loom.check.v1",
        "kind": "loom-check",
        "loom_version": __version__,
        "workflow_path": workflow_path,
        **facts,
        "errors": counts["error"],
        "warnings": counts["warning"],
        "problems": [problem_document(problem) for problem in problems],
    }


def github_lines(problems: Iterable[Problem]) -> Iterator[str]:
    """Format GitHub workflow commands, which annotate lines of a pull request."""
    for problem in problems:
        end = problem.column + problem.length
        where = {"file": problem.file, "line": problem.line, "col": problem.column, "endColumn": end}
        text = f"{problem.pointer}: {problem.message}"
        yield annotation(problem.severity, {**where, "title": problem.code}, text)
