"""What a run takes over from its parent, and what was done in the parent's containers besides its steps."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from loom import snapshot
from loom.record.coverage import noted_assistance
from loom.record.documents import Assistance
from loom.runner import Resumption
from loom.runner.previous_run import PastRun
from loom.util.bounded import bounded

MAX_CHANGES = 50


def steps_taken_over(past: PastRun, results: Iterable[str], resumed: Mapping[str, Resumption]) -> list[dict[str, Any]]:
    """Return the steps that do not run again, for the record, with the time that each took when it ran."""
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


def assistance(
    past: PastRun,
    edits: Mapping[str, Collection[str]],
    brought: Collection[str],
    var: Iterable[str],
    *,
    taken_over: Iterable[str],
) -> Iterator[Assistance]:
    """Yield what was done besides the steps whose work is taken over, in earlier runs too.

    `edits`: by resumed job, the files that were changed since it was kept. `brought`: those that a sync changed.
    """
    concerned = {None, *edits, *taken_over}
    yield from (msgspec.convert(fact, Assistance) for fact in past.fold.assisted if fact.get("job_id") in concerned)
    ended = past.fold.last.ts if past.fold.last is not None and past.fold.end else ""
    yield from (one for one in noted_assistance(past.entry.paths) if one.job_id in edits and (one.at or "") > ended)
    yield from (Assistance(how="var", command=one.partition("=")[0]) for one in var)
    if brought:
        yield Assistance(how="sync", **_changes(brought))
    yield from (Assistance(how="edit", job_id=job_id, **_changes(paths)) for job_id, paths in edits.items() if paths)


def _changes(paths: Iterable[str]) -> dict[str, Any]:
    return bounded("changes", sorted(map(snapshot.readable, paths)), MAX_CHANGES)
