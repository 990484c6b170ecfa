"""Compare the runs of one plan on one snapshot: how often it fails, by which tests, and where failing runs part from others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Literal

from loom.analysis.diff import STREAM_NAMES, output_of
from loom.analysis.evidence import diagnosis_of
from loom.analysis.failure import JobEnding, compare, normalised, recorded
from loom.record.documents import Document, RunId
from loom.record.reader import Reading
from loom.status import Count, Stream

_Z = 1.959963984540054
"""The quantile of a two-sided interval of 95 %."""
MOST_LINES = 200_000
"""Lines of a stream of output that are compared."""


class Rate(Document):
    """A rate, with Wilson's interval of 95 %."""

    count: Count
    of: Count
    low: float
    high: float


class FlakyTest(Document):
    job_id: str
    name: str
    rate: Rate
    run_id: RunId
    """The first run in which it failed."""


class FailureOfRuns(Document):
    """One failure, and the runs that ended with it."""

    job_id: str
    ending: JobEnding
    run_ids: list[RunId]


class PartingLine(Document):
    """The first line of a failing run that no passing run prints; `line` counts from 1 in its stream."""

    run_id: RunId
    job_id: str
    step: str
    stream: Stream
    line: Count
    text: str
    runs: Count
    """The number of failing runs that print it."""


class Repetition(Document):
    """The document of `loom run --repeat N --json`."""

    schema_version: Literal["loom.repetition.v1"] = "loom.repetition.v1"
    kind: Literal["repetition"] = "repetition"
    run_id: RunId
    """The run whose children these are."""
    wanted: Count
    passed: list[RunId]
    failed: list[RunId]
    ended_otherwise: list[RunId]
    """Interrupted, or without a result because of the engine, an image or the snapshot."""
    rate: Rate
    exit_codes: dict[str, Count]
    """The exit codes of the runs that failed."""
    tests: list[FlakyTest]
    """The tests that failed, the most frequent first."""
    failures: list[FailureOfRuns]
    """The failures that are not the same, the most frequent first."""
    parting: PartingLine | None


def wilson(count: int, of: int) -> Rate:
    """Return a rate with its interval."""
    if of == 0:
        return Rate(count=0, of=0, low=0.0, high=1.0)
    share, square = count / of, _Z * _Z
    middle = share + square / (2 * of)
    width = _Z * math.sqrt(share * (1 - share) / of + square / (4 * of * of))
    low, high = ((middle + sign * width) / (1 + square / of) for sign in (-1, 1))
    return Rate(count=count, of=of, low=round(max(0.0, low), 4), high=round(min(1.0, high), 4))


def repetition_of(run_id: str, runs: Sequence[Reading], wanted: int) -> Repetition:
    """Compare runs of one plan on one snapshot. RecordError for a record that can't be read."""
    passed = [run for run in runs if run.state == "success"]
    failed = [run for run in runs if run.state in ("failure", "timed_out")]
    other = [run.run_id for run in runs if run not in passed and run not in failed]
    ends = (run.job_manifest(job_id).exit_code for run in failed for job_id in _failed_jobs(run)[:1])
    return Repetition(
        run_id=run_id,
        wanted=wanted,
        passed=[run.run_id for run in passed],
        failed=[run.run_id for run in failed],
        ended_otherwise=other,
        rate=wilson(len(failed), len(passed) + len(failed)),
        exit_codes=dict(Counter(map(str, ends))),
        failures=_failures(failed),
        tests=_tests(failed, len(passed) + len(failed)),
        parting=_parting(list(_printed(passed).values()), _printed(failed), failed),
    )


def _failed_jobs(run: Reading) -> list[str]:
    return [job.id for job in run.fold.jobs.values() if job.status is not None and not job.status.ok and job.attempts]


def _failures(failed: Sequence[Reading]) -> list[FailureOfRuns]:
    found: list[FailureOfRuns] = []
    for run in failed:
        for job_id in _failed_jobs(run)[:1]:
            ended = recorded(run, job_id)
            alike = (one for one in found if one.job_id == job_id and compare(one.ending, ended).same)
            if (known := next(alike, None)) is None:
                found.append(FailureOfRuns(job_id=job_id, ending=ended, run_ids=[run.run_id]))
            else:
                known.run_ids.append(run.run_id)
    return sorted(found, key=lambda one: -len(one.run_ids))


def _tests(failed: Sequence[Reading], of: int) -> list[FlakyTest]:
    """Name the tests that reports or known formats of output show as failed."""
    found: dict[tuple[str, str], list[str]] = {}
    for run in failed:
        for job_id in _failed_jobs(run):
            diagnosis = diagnosis_of(run, job_id)
            reported = [test.full_name for test in diagnosis.failing_tests]
            printed = [failure.test for failure in diagnosis.failures if failure.test]
            for name in dict.fromkeys(reported or printed):
                found.setdefault((job_id, name), []).append(run.run_id)
    ordered = sorted(found.items(), key=lambda item: -len(item[1]))
    return [
        FlakyTest(job_id=job_id, name=name, rate=wilson(len(runs), of), run_id=runs[0])
        for (job_id, name), runs in ordered
    ]


def _lines(run: Reading) -> Iterator[tuple[str, str, Stream, int, str]]:
    """Yield job, step, stream, number and text of each line."""
    for job_id in run.fold.jobs:
        for step in dict.fromkeys(step.step for step in run.job_manifest(job_id).steps):
            for stream in STREAM_NAMES:
                for number, text in enumerate(islice(output_of(run, job_id, step, stream), MOST_LINES), 1):
                    yield job_id, step, stream, number, text


def _printed(runs: Iterable[Reading]) -> dict[str, list[int]]:
    """Return the keys of the lines of each run, by its id."""
    return {run.run_id: [hash((job, step, normalised(text))) for job, step, _, _, text in _lines(run)] for run in runs}


def _parting(
    passed: Sequence[list[int]], failed: Mapping[str, list[int]], runs: Sequence[Reading]
) -> PartingLine | None:
    """Find it in each failing run; return the one that most of them print."""
    if not passed:
        return None
    known = set().union(*passed)
    first = {
        run_id: found
        for run_id, keys in failed.items()
        if (found := next(((at, key) for at, key in enumerate(keys) if key not in known), None)) is not None
    }
    if not first:
        return None
    ((key, count),) = Counter(key for _, key in first.values()).most_common(1)
    run = next(run for run in runs if first.get(run.run_id, (0, None))[1] == key)
    job_id, step, stream, number, text = next(islice(_lines(run), first[run.run_id][0], None))
    return PartingLine(run_id=run.run_id, job_id=job_id, step=step, stream=stream, line=number, text=text, runs=count)
