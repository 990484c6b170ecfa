"""`loom diagnose`."""

from __future__ import annotations

import time

from loom.analysis.evidence import diagnosis_of
from loom.commands.naming import run_or_job
from loom.commands.project import here
from loom.commands.screen import screen_parts
from loom.errors import RequestError
from loom.record.unrecorded import since
from loom.render import diagnosis as forms


def diagnose(run: str, job: str | None, form: str, *, color: str | None) -> None:
    """`loom diagnose`."""
    place = here({"color": color})
    reading, job, more = run_or_job(place, run, job, None)
    if more is not None:
        raise RequestError(f"unexpected argument {more}: expected [RUN] [JOB]")
    later = since(place.config.state_dir, place.root, reading.run_id)
    diagnosis = diagnosis_of(reading, job, later)
    look, write = screen_parts(place.config.color if form == "text" else "never")
    for line in forms.lines(form, diagnosis, look, now_ns=time.time_ns()):
        write(line)
