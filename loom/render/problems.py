"""Problems in a user's file as lines for a person: the place, the reason, and the source with a marker under it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from loom.errors import Problem


def problem_lines(problems: Iterable[Problem]) -> Iterator[str]:
    for problem in problems:
        label = "" if problem.severity == "error" else f"{problem.severity}: "
        yield f"{problem.file}:{problem.line}:{problem.column}: {label}{problem.code} {problem.pointer}: {problem.message}"
        if problem.source_line is not None:
            gutter = f"{problem.line:>5} | "
            yield gutter + problem.source_line.replace("\t", " ")
            yield " " * (len(gutter) - 2) + "| " + " " * (problem.column - 1) + "^" * max(1, problem.length)
