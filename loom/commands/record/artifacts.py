"""`loom artifacts`: list or unpack the artifacts of a run's jobs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from loom.action_services.artifacts import archives as uploads
from loom.action_services.artifacts import named
from loom.commands.project import jobs_of, open_project, run_or_job
from loom.errors import RequestError
from loom.record.past_run import PastRun
from loom.record.run_paths import artifacts_beside
from loom.render.output import print_either
from loom.snapshot import path_fields
from loom.storage.artifacts import fetch, index_of
from loom.storage.tar import TarEntry
from loom.util.controls import shown
from loom.util.units import counted, rough_size


def artifacts(run: str | None, job: str | None, to: Path | None, *, as_json: bool) -> None:
    found, wanted, _ = run_or_job(open_project(), run or "last", job, None)
    past = PastRun(found.entry)
    ids = jobs_of(found, wanted) if wanted else [one.id for one in past.plan.jobs]
    archives = {name: archive for job_id in ids for name, archive in _archives_of(job_id, past.archive_of(job_id))}
    held = {name: index_of(archive) for name, archive in archives.items()}
    folders = _fetched(archives, to, alone=len(ids) == 1) if to is not None else {}
    jobs = [_document(name, archives[name], files, folders) for name, files in held.items()]
    lines = _lines(held, folders, whole=wanted is not None)
    print_either(as_json, "artifacts", {"run_id": past.run_id, "jobs": jobs}, lines)
    if not (held or as_json):
        subject = f"job {ids[0]}" if len(ids) == 1 else "no job"
        print(f"{subject} of run {past.run_id} left {'no ' if len(ids) == 1 else ''}artifacts", file=sys.stderr)


def _archives_of(job_id: str, archive: Path) -> Iterator[tuple[str, Path]]:
    """Yield the archive of a job by the job's id, and those that its actions uploaded as `JOB/NAME`."""
    if archive.is_file():
        yield job_id, archive
    for uploaded in sorted(uploads(artifacts_beside(archive))):
        yield f"{job_id}/{named(uploaded)}", uploaded


def _fetched(archives: Mapping[str, Path], to: Path, *, alone: bool) -> dict[str, Path]:
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise RequestError(
            f"{to} is not an empty directory: nothing was unpacked", hint="name one that is new or empty"
        )
    folders = {name: to / (name.partition("/")[2] if alone else name) for name in archives}
    for name, archive in archives.items():
        fetch(archive, folders[name])
    return folders


def _lines(held: Mapping[str, Sequence[TarEntry]], folders: Mapping[str, Path], *, whole: bool) -> list[str]:
    lines = []
    for name, files in held.items():
        where = f" in {folders[name]}" if name in folders else ""
        lines.append(
            f"{shown(name)}: {counted(len(files), 'file')}, {rough_size(sum(one.size for one in files))}{where}"
        )
        if whole and not folders:
            for one in files:
                target = f" -> {one.target}" if one.target else ""
                lines.append(f"  {rough_size(one.size):>8}  {shown(one.path + target)}")
    return lines


def _document(name: str, archive: Path, files: Sequence[TarEntry], folders: Mapping[str, Path]) -> dict[str, Any]:
    return {
        "job_id": name.partition("/")[0],
        "name": name.partition("/")[2] or None,
        "archive_path": str(archive),
        "fetched_to": str(folders[name].absolute()) if name in folders else None,
        "files": [
            {**path_fields(one.path), "kind": one.kind, "size": one.size}
            | (path_fields(one.target, "target") if one.target else {})
            for one in files
        ],
    }
