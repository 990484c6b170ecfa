"""`loom artifacts`: list or unpack the artifacts of a run's jobs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loom.commands.project import here
from loom.commands.record.naming import jobs_of, run_or_job
from loom.errors import RequestError
from loom.render.output import print_kind
from loom.runner.previous_run import read
from loom.snapshot.model import path_fields
from loom.storage.artifacts import ArtifactFile, fetch, index_of
from loom.util.controls import shown
from loom.util.units import counted, rough_size


def artifacts(run: str | None, job: str | None, to: Path | None, *, as_json: bool) -> None:
    """`loom artifacts`."""
    found, wanted, _ = run_or_job(here(), run or "last", job, None)
    past = read(found.entry)
    ids = jobs_of(found, wanted) if wanted else [one.id for one in past.planned.plan.jobs]
    archives = {job_id: archive for job_id in ids if (archive := past.archive_of(job_id)).is_file()}
    held = {job_id: index_of(archive) for job_id, archive in archives.items()}
    folders = _fetched(archives, to, alone=len(ids) == 1) if to is not None else {}
    if as_json:
        jobs = [_document(job_id, archives[job_id], files, folders) for job_id, files in held.items()]
        print_kind("artifacts", {"run_id": past.run_id, "jobs": jobs})
        return
    for line in _lines(held, folders, whole=wanted is not None):
        print(line)
    if not held:
        subject = f"job {ids[0]}" if len(ids) == 1 else "no job"
        print(f"{subject} of run {past.run_id} left {'no ' if len(ids) == 1 else ''}artifacts", file=sys.stderr)


def _fetched(archives: Mapping[str, Path], to: Path, *, alone: bool) -> dict[str, Path]:
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise RequestError(
            f"{to} is not an empty directory: nothing was unpacked", hint="name one that is new or empty"
        )
    folders = {job_id: to if alone else to / job_id for job_id in archives}
    for job_id, archive in archives.items():
        fetch(archive, folders[job_id])
    return folders


def _lines(held: Mapping[str, Sequence[ArtifactFile]], folders: Mapping[str, Path], *, whole: bool) -> list[str]:
    lines = []
    for job_id, files in held.items():
        where = f" in {folders[job_id]}" if job_id in folders else ""
        lines.append(f"{job_id}: {counted(len(files), 'file')}, {rough_size(sum(one.size for one in files))}{where}")
        if whole and not folders:
            for one in files:
                target = f" -> {one.target}" if one.target else ""
                lines.append(f"  {rough_size(one.size):>8}  {shown(one.path + target)}")
    return lines


def _document(job_id: str, archive: Path, files: Sequence[ArtifactFile], folders: Mapping[str, Path]) -> dict[str, Any]:
    return {
        "job_id": job_id,
        "archive_path": str(archive),
        "fetched_to": str(folders[job_id].absolute()) if job_id in folders else None,
        "files": [
            {**path_fields(one.path), "kind": one.kind, "size": one.size}
            | (path_fields(one.target, "target") if one.target else {})
            for one in files
        ],
    }
