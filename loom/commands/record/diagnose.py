"""`loom diagnose`."""

from __future__ import annotations

import time

from msgspec.structs import replace

from loom.analysis.changed_since import moved_on
from loom.analysis.diagnosis import Diagnosis, diagnose_refusal
from loom.analysis.evidence import diagnosis_of
from loom.commands.project import Here, here
from loom.commands.record.naming import run_or_job
from loom.commands.screen import screen_parts
from loom.errors import RequestError
from loom.record.reader import Reading
from loom.record.unrecorded import since
from loom.render import diagnosis as forms


def diagnose(run: str, job: str | None, form: str, *, color: str | None) -> None:
    """`loom diagnose`."""
    place = here({"color": color})
    of_all = job is None and form in forms.OF_ALL_JOBS
    reading: Reading | None = None
    diagnosis = _refusal(place) if run == "last" and job is None else None
    if diagnosis is None:
        reading, job, more = run_or_job(place, run, job, None)
        of_all = of_all and job is None
        if more is not None:
            raise RequestError(f"unexpected argument {more}: expected [RUN] [JOB]")
        diagnosis = diagnosis_of(reading, job)
        if diagnosis.failed:
            diagnosis = replace(diagnosis, moved_on=moved_on(reading))
    look, write = screen_parts(place.config.color if form == "text" else "never")
    others = [diagnosis_of(reading, other.job_id) for other in diagnosis.others] if of_all and reading else []
    for line in forms.lines(form, diagnosis, look, now_ns=time.time_ns(), others=others):
        write(line)


def _refusal(place: Here) -> Diagnosis | None:
    """Diagnose a run that was refused after the last one that has a record."""
    last = next((entry.run_id for entry, *_ in place.store.families(place.root)), None)
    found = since(place.config.state_dir, place.root, last)
    return None if found is None else diagnose_refusal(found, last)
