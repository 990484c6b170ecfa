"""Derive the extent of a run: whole, partial, resumed or assisted, from its events; format it for people."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from loom.plan.model import NOT_SELECTED
from loom.record.documents import Assistance, Extent, HeldJob, Kind, Reused, plain
from loom.record.fold import JobState, RunFold
from loom.record.request import Request
from loom.record.run_paths import RunPaths
from loom.status import Status
from loom.util import jsons, typed
from loom.util.units import counted, rough_duration
from loom.util.untrusted_files import read_regular


def extent_of(fold: RunFold) -> Extent:
    """Derive the extent from the events so far."""
    plan, reuse = fold.fact("plan_resolved"), fold.fact("steps_reused")
    not_selected = [left["id"] for left in plan.get("left_out", ()) if left["reason"] == NOT_SELECTED]
    held = [HeldJob(job_id=left["id"], kind=left["held"]) for left in plan.get("left_out", ()) if left.get("held")]
    held += [HeldJob(job_id=job.id, kind=kind) for job in fold.jobs.values() if (kind := job.outcome.get("held"))]
    reused = [
        Reused(
            job_id=job["job_id"],
            steps=len(job["steps"]),
            saved_ms=round(sum(job["steps"].values()), 3),
            from_step=job["from_step"],
        )
        for job in reuse.get("jobs", ())
    ]
    assisted = typed.convert(fold.assisted, list[Assistance])
    by_hand = any(one.how in ("shell", "exec", "edit") for one in assisted)
    kinds: list[Kind] = []
    if not_selected or held or fold.fact("results_reused").get("jobs"):
        kinds.append("partial")
    if reuse.get("resumed"):
        kinds.append("resumed")
    kinds = kinds or ["whole"]
    if assisted:
        kinds.append("assisted")
    if behind := plan.get("behind"):
        kinds.append("behind")
    if replaced := plan.get("replaced_images"):
        kinds.append("other_images")
    return Extent(
        kinds=kinds,
        proof=kinds == ["whole"],
        parent_run_id=fold.started.get("parent_run_id"),
        ran=[job.id for job in fold.jobs.values() if job.status is not Status.SKIPPED],
        not_selected=not_selected,
        held=held,
        reused=reused,
        reused_steps=sum(one.steps for one in reused),
        saved_ms=round(sum(one.saved_ms for one in reused), 3),
        assisted=assisted,
        tree_sha=None if by_hand else fold.fact("snapshot_taken").get("tree_sha"),
        behind=behind or msgspec.UNSET,
        replaced_images=replaced or msgspec.UNSET,
    )


def unlike_of(fold: RunFold) -> dict[str, tuple[str, ...]]:
    """Return, for each job that ran, what made its run unlike CI's, in the words of `config.gate.UNLIKE`."""
    of_run = tuple(_unlike_run(fold))
    ran = (job for job in fold.jobs.values() if job.end is not None)
    return {job.id: found for job in ran if (found := tuple(dict.fromkeys((*of_run, *_unlike_job(job)))))}


def _unlike_run(fold: RunFold) -> Iterator[str]:
    plan, request = fold.fact("plan_resolved"), typed.convert(fold.started.get("invocation", {}), Request)
    if fold.assisted or request.attended:
        yield "edited"
    if fold.fact("steps_reused").get("resumed"):
        yield "resumed"
    if request.var or request.inputs or request.event_file:
        yield "given-variables"
    if request.names or request.stage or request.from_job or request.matrix:
        yield "job-left-out"
    if plan.get("undecided"):
        yield "undecided"
    if plan.get("behind"):
        yield "behind"
    if fold.fact("snapshot_taken").get("own_rules"):
        yield "own-rules"
    if plan.get("replaced_images"):
        yield "mapped-image"


def _unlike_job(job: JobState) -> Iterator[str]:
    if any(fact.get("action") == "restore" and fact.get("hit") for fact in job.listed("cache")):
        yield "cache"
    if job.attempts > 1 or job.fact("test_reports").get("flaky"):
        yield "retried"
    if job.planned.get("image") is None:
        yield "not-isolated"
    elif job.planned.get("mapped"):
        yield "mapped-image"
    if any(not image.get("digest") for image in images_of(job)):
        yield "image-by-tag"


def images_of(job: JobState) -> list[Mapping[str, Any]]:
    """Return the recorded images of a job and its services."""
    own = job.facts.get("image_resolved")
    return [*([own] if own else []), *job.listed("image_used")]


def extent_text(extent: Extent) -> str:
    """Describe an extent in one line: `partial (ran unit), resumed from run 17… (3 steps reused, 2.1 s saved)`."""
    taken = [one.job_id for one in extent.reused if one.from_step is None]
    of = f"; of run {extent.parent_run_id}: {', '.join(taken)}" if taken else ""
    saved = f"{counted(extent.reused_steps, 'step')} reused, {rough_duration(extent.saved_ms)} saved"
    how = Counter(one.how for one in extent.assisted)
    files = Counter[str]()
    for one in extent.assisted:
        files[one.how] += one.changes_total
    texts = {
        "shell": counted(how["shell"], "shell"),
        "exec": counted(how["exec"], "command"),
        "edit": f"{counted(files['edit'], 'file')} edited",
        "sync": f"{counted(files['sync'], 'file')} brought by --sync",
    }
    ran = [f"ran {', '.join(extent.ran) or 'no job'}{of}"] if extent.not_selected or taken or not extent.held else []
    others = [f"{image} for {name}" for name, image in (extent.replaced_images or {}).items()]
    parts = {
        "whole": "whole",
        "partial": f"partial ({'; '.join([*ran, *held_text(extent)])})",
        "resumed": f"resumed from run {extent.parent_run_id} ({saved})",
        "assisted": f"assisted ({', '.join(text for kind, text in texts.items() if kind in how)})",
        "behind": f"behind ({extent.behind})",
        "other_images": f"other images ({', '.join(others)})",
    }
    return ", ".join(parts[kind] for kind in extent.kinds)


def held_text(extent: Extent) -> list[str]:
    """Return the words about the jobs that CI would run and the run left out, if there are any."""
    kinds = ", ".join(dict.fromkeys(one.kind for one in extent.held))
    return [f"{counted(len(extent.held), 'job')} left out ({kinds})"] if kinds else []


def note_assistance(paths: RunPaths, entry: Assistance) -> None:
    """Record who enters a job's container, also after the end of the run. OSError when the record can't be written."""
    file = os.open(paths.assistance, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, jsons.encode_line(plain(entry)))
    finally:
        os.close(file)


def noted_assistance(paths: RunPaths) -> list[Assistance]:
    """Return the entries that `note_assistance` wrote; skip invalid lines."""
    found: list[Assistance] = []
    with suppress(FileNotFoundError):
        for line in read_regular(paths.assistance).splitlines():
            with suppress(msgspec.MsgspecError):
                found.append(typed.decode(line, Assistance))
    return found
