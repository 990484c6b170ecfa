"""A diagnosis as annotations of GitHub Actions, each at a file and line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from loom.analysis.diagnosis import Diagnosis
from loom.render.diagnosis.findings import findings, grouped, of_step, reasons
from loom.util.controls import cleaned, without_commands

MOST = 10
"""GitHub shows so many of a step's annotations of one level."""


def lines_of_all(diagnoses: Sequence[Diagnosis]) -> Iterator[str]:
    """Return the annotations of several jobs."""
    for diagnosis, title in grouped(diagnoses):
        yield from _annotations(diagnosis, title)


def _annotations(diagnosis: Diagnosis, title: str) -> Iterator[str]:
    if not diagnosis.failed:
        return
    level = "warning" if diagnosis.allowed_failure else "error"
    own = findings(diagnosis)
    for found in own[: MOST - 1]:
        yield _annotation(level, found.file, found.line, found.column, title=found.title, message=found.message)
    total = max(len(own), diagnosis.failing_tests_total, diagnosis.failures_total if own else 0)
    yield _annotation(level, *of_step(diagnosis), title=title, message=_message(diagnosis, total))


def _message(diagnosis: Diagnosis, total: int) -> str:
    told = [diagnosis.error or "", *reasons(diagnosis)]
    told += [line for cause in diagnosis.shown_causes for line in (f"likely: {cause.summary}", f"  {cause.advice}")]
    if total > MOST - 1:
        told.append(f"{total} failures, {MOST - 1} of them have annotations")
    told.append(f"again: {diagnosis.reproduce}" if diagnosis.reproduce else "")
    return "\n".join(dict.fromkeys(filter(None, told)))


def _annotation(level: str, file: str | None, line: int | None, column: int | None, *, title: str, message: str) -> str:
    place = {"file": file, "line": line, "col": column} if file is not None else {}
    values = {**{name: value for name, value in place.items() if value is not None}, "title": title}
    properties = ",".join(f"{name}={_property(str(value))}" for name, value in values.items())
    return f"::{level} {properties}::{escaped(without_commands(cleaned(message)))}"


def escaped(text: str) -> str:
    """Encode the message of a command of GitHub."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return escaped(cleaned(text)).replace(":", "%3A").replace(",", "%2C")
