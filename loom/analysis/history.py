"""The same job in the latest runs: what changed since it passed, and how often it passed on the same input."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from loom import snapshot
from loom.analysis.diff import FileIds, Pair, differing_files, differing_inputs
from loom.errors import LoomError, RecordError
from loom.record.documents import Document, JobManifest, Sha
from loom.record.reader import Reading
from loom.record.store import read_document
from loom.status import Code, Count

MOST_FILES = 20
MOST_HUNKS = 3
HUNK_LINES = 12


class ChangedFile(Document):
    """A file that differs between two snapshots. `hunk`: the lines of a patch, where both contents still exist."""

    path: str
    change: Literal["added", "deleted", "modified"]
    named: bool
    """Whether the failing output names it."""
    line: Code | None = None
    """The first line that differs, in the later snapshot."""
    hunk: list[str] = []


class SinceGreen(Document):
    """The differences from the last run in which the same job passed."""

    run_id: str
    tree_sha: Sha | None
    files: list[ChangedFile] | None
    """The files that the failing output names come first; null where it can't be known any more."""
    files_total: Count
    other: list[Pair]
    """Images, variables, the version of loom, the provider."""


class SameInput(Document):
    """The number of runs of the job on the same tree and image, this one included."""

    runs: Count
    passed: Count


def history(
    reading: Reading, job_id: str, lines: Sequence[str], *, hunks: bool
) -> tuple[SinceGreen | None, SameInput | None]:
    """Compare a job that failed with its earlier runs. `lines`: what it printed; `hunks`: whether to show contents of files."""
    this = _input(reading, reading.job_manifest(job_id))
    green: Reading | None = None
    outcomes = [False]
    for earlier in reading.earlier:
        extent = earlier.receipt().extent
        if job_id in (*(one.job_id for one in extent.reused), *(one.job_id for one in extent.assisted)):
            continue  # it was resumed, or somebody assisted it
        job = read_document(earlier.paths.job(job_id) / "manifest.json", JobManifest)
        if job is None or job.status not in ("success", "failure", "timed_out"):
            continue
        passed = job.status == "success"
        if passed and green is None:
            green = earlier
        if _input(earlier, job) == this:
            outcomes.append(passed)
    same = SameInput(runs=len(outcomes), passed=sum(outcomes)) if any(outcomes) else None
    since = None
    if green is not None:
        with suppress(RecordError):
            since = _changes_since(green, reading, job_id, lines, hunks=hunks)
    return since, same


def _input(run: Reading, job: JobManifest) -> tuple[str | None, str | None]:
    return run.receipt().snapshot_tree_sha, job.image.id if job.image else None


def _changes_since(green: Reading, reading: Reading, job_id: str, lines: Sequence[str], *, hunks: bool) -> SinceGreen:
    differing = differing_inputs(green, reading, None, job_id)
    files: list[ChangedFile] | None = []
    total = 0
    if differing.tree is not None:
        ids = differing_files(green, reading)
        total = len(ids or {})
        files = None if ids is None else _changed_files(ids, (green, reading), lines, hunks=hunks)
    return SinceGreen(
        run_id=green.run_id,
        tree_sha=green.receipt().snapshot_tree_sha,
        files=files,
        files_total=total,
        other=[*differing.images, *differing.variables, *differing.other],
    )


def _changed_files(ids: FileIds, runs: Sequence[Reading], lines: Sequence[str], *, hunks: bool) -> list[ChangedFile]:
    named = {path: _is_named(path, lines) for path in ids}
    chosen = sorted(ids, key=lambda path: (not named[path], path))[:MOST_FILES]
    stores = list[str]()
    for run in runs:
        if run.foreign:
            continue  # its paths are a stranger's
        with suppress(LoomError, OSError):
            stores += snapshot.read_manifest(run.paths.root, run.paths.snapshot).stores
    roots = [root for run in runs for root in (run.receipt().snapshot_path, run.receipt().repo_root)]
    trees = [Path(root) for root in roots if root is not None]
    shown = {path: ids[path] for path in chosen[:MOST_HUNKS]}
    patches = snapshot.first_hunks(shown, stores, trees, most_lines=HUNK_LINES)
    found = []
    for path in chosen:
        before, after = ids[path]
        line, hunk = patches.get(path, (None, []))
        found.append(
            ChangedFile(
                path=snapshot.readable(path),
                change="added" if before is None else "deleted" if after is None else "modified",
                named=named[path],
                line=line,
                hunk=hunk if hunks else [],
            )
        )
    return found


def _is_named(path: str, lines: Sequence[str]) -> bool:
    """Return whether the text names the file: by its path, or by its name where a step stands in its directory."""
    name = path.rpartition("/")[2]
    pattern = re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w-])")
    return any(name in line and pattern.search(line) for line in lines)
