"""A diagnosis as a report of GitLab's kind `codequality`, which GitLab shows at the lines of a merge request."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from loom.analysis.diagnosis import Diagnosis
from loom.render.diagnosis.text import headline
from loom.render.output import json_text
from loom.render.screen import Look


def lines(diagnosis: Diagnosis, look: Look, *, now_ns: int) -> Iterator[str]:
    yield json_text(list(_findings(diagnosis))).rstrip("\n")


def _findings(diagnosis: Diagnosis) -> Iterator[dict[str, Any]]:
    if not diagnosis.failed:
        return
    severity = "minor" if diagnosis.allowed_failure else "critical"
    job = diagnosis.job_id or "run"
    for test in diagnosis.failing_tests:
        if test.file:
            text = f"{test.full_name}: {test.message or 'this test failed'}"
            yield _finding(job, "test", text, severity, test.file, test.line or 1)
    places = [] if diagnosis.failing_tests else [(place.file, place.line) for place in diagnosis.places[:1]]
    if diagnosis.step_place is not None and not places:
        file, _, line = diagnosis.step_place.rpartition(":")
        places = [(file, int(line))]
    why = "; ".join([headline(diagnosis), *(cause.summary for cause in diagnosis.causes)])
    for file, line_number in places:
        yield _finding(job, "failure", why, severity, file, line_number)


def _finding(job: str, check: str, text: str, severity: str, file: str, line: int) -> dict[str, Any]:
    return {
        "description": text,
        "check_name": f"loom {job} {check}",
        "fingerprint": hashlib.sha256("\0".join((job, check, text, file)).encode(errors="replace")).hexdigest(),
        "severity": severity,
        "location": {"path": file, "lines": {"begin": line}},
    }
