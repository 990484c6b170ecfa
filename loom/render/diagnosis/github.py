"""A diagnosis as annotations of GitHub Actions, each at a file and line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loom.analysis.diagnosis import Diagnosis
from loom.render.diagnosis.text import headline
from loom.render.screen import Look
from loom.util.controls import cleaned, without_commands

MOST = 10
"""GitHub shows so many of a step's annotations of one level."""


def lines(diagnosis: Diagnosis, look: Look, *, now_ns: int) -> Iterator[str]:
    if not diagnosis.failed:
        return
    level = "warning" if diagnosis.allowed_failure else "error"
    for test in diagnosis.failing_tests[: MOST - 1]:
        place = {"file": test.file, "line": test.line}
        yield _annotation(level, place, title=test.full_name, message=test.message or "this test failed")
    yield _annotation(level, _place(diagnosis), title=headline(diagnosis), message=_message(diagnosis))


def _place(diagnosis: Diagnosis) -> Mapping[str, Any]:
    """Of a failure that has failing tests, the step: each test has an annotation of its own."""
    if diagnosis.places and not diagnosis.failing_tests:
        first = diagnosis.places[0]
        return {"file": first.file, "line": first.line, "col": first.column}
    if diagnosis.step_place is None:
        return {}
    file, _, line = diagnosis.step_place.rpartition(":")
    return {"file": file, "line": line}


def _message(diagnosis: Diagnosis) -> str:
    told = [diagnosis.error or ""]
    told += [
        line
        for cause in diagnosis.shown_causes
        for line in (f"{cause.confidence}: {cause.summary}", f"  {cause.advice}")
    ]
    told += diagnosis.lines[-3:]
    if (total := diagnosis.failing_tests_total) > MOST - 1:
        told.append(f"{total} tests failed, {MOST - 1} of them have annotations")
    told.append(f"again: {diagnosis.reproduce}")
    return "\n".join(line for line in told if line)


def _annotation(level: str, place: Mapping[str, Any], *, title: str, message: str) -> str:
    values = {**{name: value for name, value in place.items() if value is not None}, "title": title}
    properties = ",".join(f"{name}={_property(str(value))}" for name, value in values.items())
    return f"::{level} {properties}::{escaped(without_commands(cleaned(message)))}"


def escaped(text: str) -> str:
    """Encode the message of a command of GitHub."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return escaped(cleaned(text)).replace(":", "%3A").replace(",", "%2C")
