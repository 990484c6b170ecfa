"""`loom run --suggest-inputs`: the inputs of a job, by the files that it read in a run with all of them."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec.structs import replace

from loom.commands.project import Worktree
from loom.errors import ProviderError, RequestError
from loom.plan.model import Job, MountMode
from loom.record.events import epoch_ns
from loom.record.past_run import PastJob, PastRun
from loom.record.run import Run
from loom.util.controls import shown

_ALL, _GIT = ("**",), (".git",)


def with_all_inputs(project: Worktree, run: Run) -> Run:
    """Return the run whose jobs have all files as inputs, so that each has files of its own, whose reads the system notes.

    RequestError for a job that can have no inputs, or where reads are not noted.
    """
    if run.request.repeat is not None or run.request.detach or run.request.reuse or run.request.form != "screen":
        raise RequestError("--suggest-inputs runs without --repeat, --detach, --reuse and --json")
    if wrong := [job.id for job in run.plan.jobs if job.trigger is not None or job.no_checkout]:
        raise RequestError(f"--suggest-inputs: {wrong[0]} does not begin with a checkout", hint="name another job")
    if not _notes_reads(project.config.tmp_dir):
        raise RequestError(
            f"--suggest-inputs: the file system of {project.config.tmp_dir} does not note reads (noatime)",
            hint="name another directory: LOOM_TMP_DIR",
        )
    jobs = tuple(replace(job, inputs=_ALL + (_GIT if _may_ask_for_git(job) else ())) for job in run.plan.jobs)
    return replace(run, plan=replace(run.plan, jobs=jobs))


def _may_ask_for_git(job: Job) -> bool:
    """Return whether reads of `.git` say that the job needs it. GitHub's checkout reads it in every job that has one."""
    return (job.inputs is not None and job.has_git) or all(step.kind != "checkout" for step in job.steps)


def suggestions(project: Worktree, run: Run) -> Iterator[str]:
    """Yield the lines with the inputs that each job of the run, which has ended, needs."""
    past = PastRun(project.store.entry(run.run_id))
    for job in run.plan.jobs:
        one = past.job(job.id)
        if one.view is None or one.view.mode is not MountMode.BIND or one.view.directory is None:
            raise ProviderError(f"{job.id}: what it read is not known: its files were not on this machine")
        named = ", ".join(shown(path) for path in _condensed(_read(one)))
        yield f"{job.id} read: inputs: [{named}]"
    yield "a run with these inputs tells what else is needed: files that are only listed, or looked for, count as not read"


def _read(job: PastJob) -> Iterator[str]:
    """Yield the files of the snapshot that the job read or changed."""
    assert job.view is not None
    began, files = epoch_ns(job.state.started_at or ""), job.view.files
    left = [each.name for each in files.iterdir()]
    for path in left:
        found = files / path
        if not os.path.lexists(job.run.workspace / path):
            continue  # the job made it
        status = found.lstat()  # to follow a link is to read it
        if stat.S_ISDIR(status.st_mode):
            left += [f"{path}/{each.name}" for each in found.iterdir()]
        elif status.st_atime_ns > status.st_ctime_ns or status.st_mtime_ns > began:
            yield path


def _condensed(paths: Iterable[str]) -> list[str]:
    """Return the files at the top, and of each folder there the deepest one with all that was read below it."""
    below: dict[str, list[str]] = {}
    for path in paths:
        below.setdefault(path.split("/")[0], []).append(path.rpartition("/")[0] or path)
    return sorted(".git" if top == ".git" else os.path.commonpath(found) for top, found in below.items())


def _notes_reads(directory: Path) -> bool:
    with tempfile.NamedTemporaryFile(dir=directory, prefix="loom-") as file:
        file.write(b"read")
        file.flush()
        os.utime(file.name, ns=(0, 0))
        Path(file.name).read_bytes()
        return Path(file.name).stat().st_atime_ns > 0
