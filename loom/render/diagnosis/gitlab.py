"""A diagnosis as a report of GitLab's kind `codequality`, which GitLab shows at the lines of a merge request."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from loom.analysis.diagnosis import Diagnosis
from loom.render.diagnosis.findings import findings, grouped, reasons, step_position
from loom.render.output import json_text


def lines_of_all(diagnoses: Sequence[Diagnosis]) -> Iterator[str]:
    """Return one report of several jobs."""
    told = grouped(each for each in diagnoses if each.failed)
    yield json_text([found for each, title in told for found in _findings(each, title)]).rstrip("\n")


def _findings(diagnosis: Diagnosis, title: str) -> Iterator[dict[str, Any]]:
    severity = "minor" if diagnosis.allowed_failure else "critical"
    job = diagnosis.job_id or "run"
    for found in findings(diagnosis):
        if found.file is not None:
            yield _finding(job, "failure", f"{found.title}: {found.message}", severity, found.file, found.line or 1)
    file, line, _ = step_position(diagnosis)
    why = [title, *reasons(diagnosis), *(f"means: {reading.text}" for reading in diagnosis.readings)]
    if file is not None and line is not None:
        yield _finding(job, "step", "; ".join(dict.fromkeys(filter(None, why))), severity, file, line)


def _finding(job: str, check: str, text: str, severity: str, file: str, line: int) -> dict[str, Any]:
    return {
        "description": text,
        "check_name": f"loom {job} {check}",
        "fingerprint": hashlib.sha256("\0".join((job, check, text, file)).encode(errors="replace")).hexdigest(),
        "severity": severity,
        "location": {"path": file, "lines": {"begin": line}},
    }
