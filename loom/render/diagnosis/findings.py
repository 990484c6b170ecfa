"""The failures of a diagnosis that have a location of their own, for forms that annotate lines of files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from loom.analysis.diagnosis import Diagnosis
from loom.render.diagnosis.text import headline
from loom.values import Immutable


class Annotation(Immutable):
    file: str | None
    line: int | None
    column: int | None = None
    title: str
    message: str


def findings(diagnosis: Diagnosis) -> list[Annotation]:
    """Return failing tests, else failures in a known format. A single one is the step's own."""
    if diagnosis.failing_tests:
        return [
            Annotation(file=test.file, line=test.line, title=test.full_name, message=test.message or "this test failed")
            for test in diagnosis.failing_tests
        ]
    located = [failure for failure in diagnosis.failures if failure.file is not None]
    return [
        Annotation(
            file=failure.file,
            line=failure.line,
            column=failure.column,
            title=failure.test or failure.code or failure.tool,
            message=failure.message or diagnosis.error or "failed",
        )
        for failure in (located if len(located) > 1 else ())
    ]


def grouped(diagnoses: Iterable[Diagnosis]) -> Iterator[tuple[Diagnosis, str]]:
    """Yield one diagnosis of each failure, and its headline with the other jobs that have it."""
    same: dict[tuple[object, ...], list[Diagnosis]] = {}
    for each in diagnoses:
        same.setdefault((*each.own_failure.failure, each.allowed_failure), []).append(each)
    for first, *more in same.values():
        also = ", ".join(each.job_id or "" for each in more)
        yield first, headline(first) + (f" (also {also})" if also else "")


def reasons(diagnosis: Diagnosis) -> list[str]:
    """Return the texts that explain the failure as a whole, the surest last."""
    by = "" if (by_whom := diagnosis.ended_by) is None or by_whom.is_all_of(diagnosis.command) else by_whom.text
    single = diagnosis.failures[0].message if len(diagnosis.failures) == 1 else None
    return [*filter(None, dict.fromkeys(("" if diagnosis.survived else by, diagnosis.told, single)))]


def step_position(diagnosis: Diagnosis) -> tuple[str | None, int | None, int | None]:
    """Return file, line and column of the failure as a whole: the first location, else the step's."""
    first = next(iter(diagnosis.locations), None)
    if first is not None and not first.one_of and not findings(diagnosis):
        return first.file, first.line, first.column
    file, _, line = (diagnosis.step_location or "").rpartition(":")
    return (file, int(line), None) if file else (None, None, None)
