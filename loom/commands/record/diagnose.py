"""`loom diagnose`."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from msgspec.structs import replace

from loom.analysis.diagnosis import Diagnosis, diagnose_refusal
from loom.analysis.evidence import changed_since, diagnosis_of
from loom.commands.project import Project, is_bundle, open_project, run_or_job
from loom.commands.screen import screen_parts
from loom.commands.servers import is_address
from loom.errors import RequestError
from loom.record.reader import Reading
from loom.record.unrecorded import find_unrecorded
from loom.render import diagnosis as forms


def diagnose(run: str, job: str | None, form: str, *, color: str | None) -> None:
    project = open_project({"color": color})
    if is_log(run):
        diagnose_log = import_module("loom.commands.record.remote").diagnose_log  # where a server may be asked
        _show([diagnose_log(project, run, job)], form, project)
        return
    of_all = job is None and form in forms.OF_ALL_JOBS
    reading: Reading | None = None
    diagnosis = _refusal(project) if run == "last" and job is None else None
    if diagnosis is None:
        reading, job, more = run_or_job(project, run, job, None)
        of_all = of_all and job is None
        if more is not None:
            raise RequestError(f"unexpected argument {more}: expected [RUN] [JOB]")
        diagnosis = diagnosis_of(reading, job)
        if diagnosis.failed:
            diagnosis = replace(diagnosis, changed_since=changed_since(reading))
        if is_bundle(run):  # its files are there for this command alone, and no run of this machine is
            name, more = shlex.quote(run), diagnosis.logs_command
            diagnosis = replace(
                diagnosis,
                logs_command=more and more.replace(reading.run_id, name, 1),
                reproduce=diagnosis.reproduce and f"loom replay {name}",
                receipt_path=None,
                job_manifest_path=None,
                events_path=None,
            )
    others = [diagnosis_of(reading, other.job_id) for other in diagnosis.others] if of_all and reading else []
    _show([diagnosis, *others], form, project)


def _show(found: Sequence[Diagnosis], form: str, project: Project) -> None:
    look, write = screen_parts(project.config.color if form == "text" else "never")
    write(*forms.lines(form, found[0], look, now_ns=time.time_ns(), others=found[1:]))


def is_log(named: str) -> bool:
    """Return whether it is a log instead of a run: an address, a file that is no document, or `-`."""
    is_file = Path(named).suffix not in (".json", ".jsonl") and os.path.isfile(named)  # noqa: PTH113  a name may be too long for Path
    return named == "-" or is_address(named) or (is_file and not is_bundle(named))


def _refusal(project: Project) -> Diagnosis | None:
    """Diagnose a run that was refused after the last one that has a record."""
    last = next((entry.run_id for entry, *_ in project.store.families(project.root)), None)
    found = find_unrecorded(project.config.state_dir, project.root, last)
    return None if found is None else diagnose_refusal(found, last)
