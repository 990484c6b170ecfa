"""A diagnosis as annotations of GitHub Actions, each at a file and line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from loom.analysis.diagnosis import Diagnosis
from loom.record.workflow_commands import annotation
from loom.render.diagnosis.findings import findings, grouped, reasons, step_position
from loom.util.controls import cleaned, escape_commands

MOST = 10
"""GitHub shows so many of a step's annotations of one level."""


def lines_of_all(diagnoses: Sequence[Diagnosis]) -> Iterator[str]:
    """Return the annotations of several jobs."""
    for diagnosis, title in grouped(each for each in diagnoses if each.failed):
        level = "warning" if diagnosis.allowed_failure else "error"
        own = findings(diagnosis)
        for found in own[: MOST - 1]:
            yield _annotation(level, found.file, found.line, found.column, found.title, found.message)
        total = max(len(own), diagnosis.failing_tests_total, diagnosis.failures_total if own else 0)
        yield _annotation(level, *step_position(diagnosis), title, _message(diagnosis, total))


def _message(diagnosis: Diagnosis, total: int) -> str:
    told = [diagnosis.error or "", *reasons(diagnosis)]
    told += [line for each in diagnosis.readings for line in (f"  means: {each.text}", f"  {each.advice}")]
    if total > MOST - 1:
        told.append(f"{total} failures, {MOST - 1} of them have annotations")
    told.append(f"again: {diagnosis.reproduce}" if diagnosis.reproduce else "")
    return "\n".join(dict.fromkeys(filter(None, told)))


def _annotation(level: str, file: str | None, line: int | None, column: int | None, title: str, message: str) -> str:
    where = {} if file is None else {"file": cleaned(file), "line": line, "col": column}
    return annotation(level, {**where, "title": cleaned(title)}, escape_commands(cleaned(message)))
