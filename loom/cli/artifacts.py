"""`loom artifacts`: what the jobs of a run left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loom.cli.options import RunOrJob
from loom.cli.record import complete_job
from loom.render.output import print_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loom.storage.artifacts import ArtifactFile


def register(app: typer.Typer) -> None:
    app.command("artifacts")(artifacts)


def artifacts(
    run: RunOrJob = None,
    job: Annotated[
        str | None,
        typer.Argument(
            metavar="JOB", help="A job of it (a name or glob); all if not given.", autocompletion=complete_job
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", help="Unpack them into this directory, which must be new or empty."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """List what a run's jobs left as artifacts, or fetch it.

    `--to DIR` unpacks a named job's files into DIR, and those of several jobs into a directory for each.
    """
    from loom.commands import records
    from loom.runner.previous_run import read
    from loom.storage.artifacts import index_of

    place = records.here()
    found, wanted, _ = records.run_or_job(place, run or "last", job, None)
    past = read(found.entry)
    ids = records.jobs_of(found, wanted) if wanted else [one.id for one in past.planned.plan.jobs]
    archives = {job_id: archive for job_id in ids if (archive := past.archive_of(job_id)).is_file()}
    held = {job_id: index_of(archive) for job_id, archive in archives.items()}
    folders = _fetched(archives, to, alone=len(ids) == 1) if to is not None else {}
    if json:
        jobs = [_document(job_id, archives[job_id], files, folders) for job_id, files in held.items()]
        print_json({"kind": "artifacts", "run_id": past.run_id, "jobs": jobs})
        return
    for line in _lines(held, folders, whole=wanted is not None):
        print(line)
    if not held:
        whose = f"job {ids[0]}" if len(ids) == 1 else "no job"
        _say(f"{whose} of run {past.run_id} left {'no ' if len(ids) == 1 else ''}artifacts")


def _fetched(archives: Mapping[str, Path], to: Path, *, alone: bool) -> dict[str, Path]:
    from loom.errors import RequestError
    from loom.storage.artifacts import fetch

    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise RequestError(
            f"{to} is not an empty directory: nothing was unpacked", hint="name one that is new or empty"
        )
    folders = {job_id: to if alone else to / job_id for job_id in archives}
    for job_id, archive in archives.items():
        fetch(archive, folders[job_id])
    return folders


def _lines(held: Mapping[str, Sequence[ArtifactFile]], folders: Mapping[str, Path], *, whole: bool) -> list[str]:
    from loom.util.controls import shown
    from loom.util.units import counted, rough_size

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
    from loom.snapshot.model import path_fields

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


def _say(text: str) -> None:
    import sys

    print(text, file=sys.stderr)
