"""Compare two runs: inputs, outcomes, durations, and the first differing line of output."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice, product, zip_longest
from typing import Any, Final, Literal

from loom import snapshot
from loom.analysis.failure import compare, normalised, recorded
from loom.errors import LoomError, RecordError
from loom.plan.model import Job
from loom.record.documents import Document, JobManifest
from loom.record.event_files import output_in, whole_lines
from loom.record.reader import Reading
from loom.record.run import load_run
from loom.status import Code, Count, Stream

FILES_SHOWN = 200
STREAM_NAMES: Final[Mapping[Stream, str]] = {"stdout": "its output", "stderr": "its standard error"}


class Pair(Document):
    """One difference. None: absent or unknown."""

    name: str
    a: str | None
    b: str | None


class FirstLine(Document):
    """The first line of a step's output that differs after normalising; `line` counts from 1 in its stream."""

    step: str
    stream: Stream
    line: Count
    a: str | None
    b: str | None


class JobDiff(Document):
    job_id: str
    status_a: str | None
    status_b: str | None
    exit_code_a: Code | None
    exit_code_b: Code | None
    duration_ms_a: float | None
    duration_ms_b: float | None
    steps: list[Pair]
    failure: str | None = None
    """Of a job that failed on both sides: whether it is the same failure, else what is another."""
    first_line: FirstLine | None
    same: bool


class Inputs(Document):
    same: bool
    tree: Pair | None
    head: Pair | None
    files: list[Pair] | None
    """Files that differ, with their content ids; null when the trees differ and a workspace is gone."""
    files_total: Count = 0
    images: list[Pair]
    variables: list[Pair]
    other: list[Pair]


class Diff(Document):
    schema_version: Literal["loom.diff.v1"] = "loom.diff.v1"
    kind: Literal["diff"] = "diff"
    run_a: str
    run_b: str
    state_a: str
    state_b: str
    duration_ms_a: float | None
    duration_ms_b: float | None
    inputs: Inputs
    jobs: list[JobDiff]
    first_difference: str | None
    same: bool


FileIds = Mapping[str, tuple[str | None, str | None]]
"""By the path of a file, its content's id on either side."""


def differing_files(a: Reading, b: Reading) -> FileIds | None:
    """Compare the two snapshots by the manifests in the records; None when one can't be read."""
    try:
        one, two = (snapshot.read_manifest(each.paths.root, each.paths.snapshot) for each in (a, b))
        changes = snapshot.changes_between(one, two, environ=os.environ)
        return {change.path: (_id(change.old_sha), _id(change.sha)) for change in changes}
    except (LoomError, OSError):
        return None


def _id(sha: str) -> str | None:
    return sha if sha.strip("0") else None


def diff_of(a: Reading, b: Reading) -> Diff:
    inputs = differing_inputs(a, b, differing_files(a, b))
    same_tree = inputs.tree is None
    jobs = [_job(job_id, a, b, same_tree=same_tree) for job_id in dict.fromkeys([*a.fold.jobs, *b.fold.jobs])]
    same = inputs.same and a.state == b.state and all(job.same for job in jobs)
    return Diff(
        run_a=a.run_id,
        run_b=b.run_id,
        state_a=a.state,
        state_b=b.state,
        duration_ms_a=a.receipt().duration_ms,
        duration_ms_b=b.receipt().duration_ms,
        inputs=inputs,
        jobs=jobs,
        first_difference=next(_differences(inputs, jobs), None),
        same=same,
    )


def _pair(name: str, a: object, b: object) -> Pair | None:
    if a == b:
        return None
    return Pair(name=name, a=None if a is None else str(a), b=None if b is None else str(b))


def _pairs(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Pair]:
    found = (_pair(name, a.get(name), b.get(name)) for name in dict.fromkeys([*a, *b]))
    return [pair for pair in found if pair is not None]


def differing_inputs(a: Reading, b: Reading, files: FileIds | None, *job_ids: str) -> Inputs:
    """Compare the inputs of some jobs, or of all."""
    one, two = a.receipt(), b.receipt()
    tree = _pair("tree", one.snapshot_tree_sha, two.snapshot_tree_sha)
    images, variables, other = map(_pairs, _inputs(a, job_ids), _inputs(b, job_ids))
    first = islice(files.items() if files else (), FILES_SHOWN)
    changed = [Pair(name=snapshot.readable(path), a=one, b=two) for path, (one, two) in first]
    return Inputs(
        same=tree is None and not images and not variables and not other,
        tree=tree,
        head=_pair("head", one.snapshot_head_sha, two.snapshot_head_sha),
        files=[] if tree is None else None if files is None else changed,
        files_total=0 if tree is None or files is None else len(files),
        images=images,
        variables=variables,
        other=other,
    )


_OF_THE_RUN = re.compile(r"^(?:LOOM_RUN_ID|(?:LOOM|CI)_PIPELINE_ID|CI_JOB_ID|CI_PIPELINE_IID|(?:CI|LOOM)_PROJECT_DIR)$")


def _inputs(run: Reading, job_ids: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield the images of the jobs, their variables by the saved plan, and what else a run has."""
    jobs = {job_id: run.job_manifest(job_id) for job_id in job_ids or run.fold.jobs}
    images = ((job_id, job.image) for job_id, job in jobs.items())
    yield {job_id: f"{image.name} {image.digest or image.id}" for job_id, image in images if image}
    planned: Sequence[Job] = ()
    with suppress(RecordError):
        planned = load_run(run.paths.plan).plan.jobs
    yield {
        f"{job.id}.{name}": value
        for job in planned
        for name, value in job.variables.items()
        if (not job_ids or job.id in job_ids) and not _OF_THE_RUN.match(name)
    }
    providers = {f"{job_id} provider": job.provider for job_id, job in jobs.items()}
    yield {"loom version": run.receipt().loom_version, **providers}


def output_of(run: Reading, job_id: str, step: str, stream: Stream) -> Iterator[str]:
    """Return the lines that a step printed in its last attempt."""
    events = output_in(run.unit(job_id, step).events)
    return (event.text for event in whole_lines(event for event in events if event.stream == stream))


def _job(job_id: str, a: Reading, b: Reading, *, same_tree: bool) -> JobDiff:
    one, two = (run.job_manifest(job_id) if job_id in run.fold.jobs else None for run in (a, b))
    steps = _pairs(_outcomes(one), _outcomes(two))
    # Compare each stream separately: the order between streams varies from run to run.
    streams = product(dict.fromkeys([*_outcomes(one), *_outcomes(two)]), STREAM_NAMES)
    found = (
        first_line(step, stream, *(output_of(run, job_id, step, stream) for run in (a, b))) for step, stream in streams
    )
    first = next((line for line in found if line is not None), None)
    statuses, codes = ([getattr(job, name, None) for job in (one, two)] for name in ("status", "exit_code"))
    failed = all(status in ("failure", "timed_out") for status in statuses)
    ends = (recorded(a, job_id), recorded(b, job_id)) if failed else None
    compared = compare(*ends, same_tree=same_tree, names=("in a", "in b")) if ends is not None else None
    return JobDiff(
        job_id=job_id,
        status_a=statuses[0],
        status_b=statuses[1],
        exit_code_a=codes[0],
        exit_code_b=codes[1],
        duration_ms_a=_duration(one),
        duration_ms_b=_duration(two),
        steps=steps,
        failure=None if compared is None else f"the same failure: {compared.text}" if compared.same else compared.text,
        first_line=first,
        same=statuses[0] == statuses[1]
        and codes[0] == codes[1]
        and not steps
        and first is None
        and (compared is None or compared.same),
    )


def _duration(job: JobManifest | None) -> float | None:
    spent = [phase.duration_ms for phase in (job.phases if job else ()) if phase.duration_ms is not None]
    return round(sum(spent), 3) if spent else None


def _outcomes(job: JobManifest | None) -> dict[str, str]:
    """Return each step's result in the last attempt."""
    outcomes: dict[str, str] = {}
    for step in sorted(job.steps if job else (), key=lambda step: (step.attempt, step.step)):
        code = "" if step.exit_code is None else f" {step.exit_code}"
        outcomes[step.step] = f"{step.status}{code}"
    return outcomes


def first_line(step: str, stream: Stream, a: Iterable[str], b: Iterable[str]) -> FirstLine | None:
    for number, (one, two) in enumerate(zip_longest(a, b), 1):
        if one == two or (one is not None and two is not None and normalised(one) == normalised(two)):
            continue
        return FirstLine(step=step, stream=stream, line=number, a=one, b=two)
    return None


def _differences(inputs: Inputs, jobs: Sequence[JobDiff]) -> Iterator[str]:
    """Return the earliest difference that can explain the others; inputs come before results."""
    if inputs.tree is not None:
        named = f": {inputs.files[0].name}" if inputs.files else ""
        more = f" and {inputs.files_total - 1} more" if inputs.files_total > 1 else ""
        yield f"the tree{named}{more}"
    for pair in inputs.images:
        yield f"the image of {pair.name}: {pair.a} / {pair.b}"
    for pair in (*inputs.variables, *inputs.other):
        yield f"{pair.name}: {pair.a} / {pair.b}"
    for job in jobs:
        if (first := job.first_line) is not None:
            yield f"job {job.job_id}, step {first.step}, line {first.line} of {STREAM_NAMES[first.stream]}"
        elif not job.same:
            yield f"job {job.job_id}: {job.status_a} / {job.status_b}"
