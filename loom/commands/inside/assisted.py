"""What a run takes over from its parent, and what was done in the parent's places besides its steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from msgspec import Struct

from loom import snapshot
from loom.commands.inside import session
from loom.commands.project import Here
from loom.errors import LoomError
from loom.plan.model import MountMode
from loom.record import visitors as visits
from loom.record.coverage import recorded_extent
from loom.runner import Resumption, View
from loom.runner.assistance import Assisted
from loom.runner.previous_run import PastJob, PastRun
from loom.snapshot import Change, Edited
from loom.util.untrusted_files import read_regular

Known = tuple[Assisted | None, tuple[Change, ...] | None]
"""None for the first: no assistance, but for the tree. None for the second: it is unknown."""


def steps_taken_over(past: PastRun, results: Iterable[str], resumed: Mapping[str, Resumption]) -> list[dict[str, Any]]:
    """The steps that do not run again, for the record, with the time that each took when it ran."""
    before = {job["job_id"]: job["steps"] for job in past.fold.facts.get("steps_reused", {}).get("jobs", ())}
    taken = []
    for job_id in (*results, *resumed):
        from_step = resumed[job_id].step if job_id in resumed else None
        state = past.fold.jobs.get(job_id)
        spans = state.steps.items() if state is not None else ()
        took = {step: span.duration_ms or 0.0 for (number, step), span in spans if state and number == state.attempts}
        order = [step.id for step in past.job(job_id).job.steps]
        order = order if from_step is None else order[: order.index(from_step)]
        known = {**before.get(job_id, {}), **took}
        if steps := {step: known[step] for step in order if step in known}:
            taken.append({"job_id": job_id, "from_step": from_step, "steps": steps})
    return taken


class Edits(Struct, frozen=True, kw_only=True):
    """What was changed in a job's files since they were kept; `edited` is None where that is unknown."""

    job: PastJob
    view: View
    edited: Edited | None


def edits_in(here: Here, past: PastRun, resumed: Mapping[str, Resumption]) -> list[Edits]:
    """Look before anything of the new run changes the files."""
    found = []
    for job_id, resumption in resumed.items():
        job = past.job(job_id)
        view = resumption.view or View(mode=MountMode.BIND, workspace=past.workspace)
        edited = None
        with suppress(LoomError, OSError):
            edited = _edited(here, job, view)
        found.append(Edits(job=job, view=view, edited=edited))
    return found


def _edited(here: Here, job: PastJob, goes_on_in: View) -> Edited | None:
    view, since = job.view, _kept_at(job)
    if view is None or since is None:
        return None
    match view.mode:
        case MountMode.BIND if session.may_enter(view.place):
            return snapshot.edited_since(view.place, since, before=_kept_files(job))
        case MountMode.OVERLAY:
            return snapshot.edited_since(view.place.parent / "upper", since, layer=True)
        case _:
            return snapshot.edited_since(_files(here, job, goes_on_in), since, copied=True)


def _kept_files(job: PastJob) -> frozenset[bytes] | None:
    try:
        digests = read_regular(job.run.entry.paths.kept_files(job.job.id))
    except OSError:
        return None
    size = snapshot.DIGEST_SIZE
    return frozenset(digests[start : start + size] for start in range(0, len(digests), size))


def _files(here: Here, job: PastJob, view: View) -> Path:
    """The files that the job goes on with, as a plain directory: not laid out again where a sync may have changed them."""
    if view.place == view.workspace and session.may_enter(view.place):
        return view.place
    return session.view_now(here, job) or session.files_of(here, job)


def _kept_at(job: PastJob) -> float | None:
    """When the last step had its last word: jobs that share files write until the run's end."""
    last = job.run.fold.last
    ended = last.ts if job.shares_workspace and last is not None else None
    text = ended or job.kept.get("kept_at") or (job.state.result.ts if job.state.result is not None else None)
    return datetime.fromisoformat(text).timestamp() if text else None


def assistances(
    here: Here,
    past: PastRun,
    edits: Sequence[Edits],
    brought: Iterable[str],
    var: Iterable[str],
    *,
    taken_over: Iterable[str],
) -> list[Known]:
    """What was done besides the steps whose work is taken over, the earlier runs' included."""
    jobs = {edit.job.job.id for edit in edits}
    before = [fact for fact in past.fold.assisted if fact.get("job_id") in {None, *jobs, *taken_over}]
    found: list[Known] = [
        (
            Assisted(
                how=fact["how"],
                job_id=fact.get("job_id"),
                command=fact.get("command"),
                paths=tuple(fact.get("changes", ())),
            ),
            (),
        )
        for fact in before
    ]
    if before and recorded_extent(past.fold).tree_sha is None:
        found.append((None, None))
    ended = past.fold.last
    since = datetime.fromisoformat(ended.ts).timestamp() if ended is not None and past.fold.end else 0.0
    found += [
        (Assisted(how=visit.how, job_id=visit.job_id, command=visit.command), ())
        for visit in visits.visits(past.entry.paths, after=since)
        if visit.job_id in jobs
    ]
    found += [(Assisted(how="var", command=one.partition("=")[0]), ()) for one in var]
    synced = set(brought)
    if synced:
        found.append((Assisted(how="sync", paths=tuple(sorted(synced))), ()))
    for edit in edits:
        job_id = edit.job.job.id
        known = {path for one, _ in found if one for path in one.paths if one.job_id in (None, job_id)}
        changes = _changes(here, edit, known)
        own = tuple(change.path for change in changes or () if change.path not in known)
        edited = own or (edit.edited.files if changes is None and edit.edited else ())
        found.append((Assisted(how="edit", job_id=job_id, paths=tuple(sorted(edited))) if edited else None, changes))
    return found


def _changes(here: Here, edit: Edits, known: set[str]) -> tuple[Change, ...] | None:
    """How the job's files differ from the snapshot by edits and by what is known already; None where that is unknown."""
    if edit.edited is None:
        return None
    if not edit.edited and not known:
        return ()
    manifest = edit.job.manifest  # after a sync: of what it brought
    try:
        return snapshot.changes_among(
            _files(here, edit.job, edit.view),
            edit.edited,
            known,
            environ=here.environ,
            manifest_file=manifest if manifest.exists() else None,
        )
    except LoomError:
        return None
