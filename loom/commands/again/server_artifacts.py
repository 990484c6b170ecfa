"""Download from a CI server what the jobs before one have left."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

from loom.action_services.artifacts import file_of
from loom.commands.again.server_job import ServerJob
from loom.commands.servers import RemoteJob, ServerRefused
from loom.errors import ArtifactError, LoomError
from loom.plan.model import Job
from loom.storage import dotenv, zips
from loom.storage.tar import DamagedArchive, packed
from loom.util import atomic


def bring_of_run(there: ServerJob, folder: Path) -> None:
    """Download the artifacts of the run from before the job; what can't be had is said."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        for one in there.server.artifacts_before(there.job):
            if one.expired:
                raise ServerRefused(f"the artifact {one.name} has expired")
            with folder.joinpath(file_of(one.name)).open("wb") as file:
                there.server.artifacts(one, file)
    except (ServerRefused, OSError) as error:
        why = error.message if isinstance(error, ServerRefused) else error.strerror
        there.differences.add("artifacts of the run", "present", note=f"artifacts: {why}")


def bring(there: ServerJob, job: Job, of_server: RemoteJob) -> None:
    """Download the artifacts of a job; what can't be had is said."""
    if not of_server.has_artifacts:
        return
    archive = there.archive_of(job.id)
    archive.parent.mkdir(parents=True, exist_ok=True)
    draft = archive.with_name("artifacts.zip")
    try:
        if of_server.expired:
            raise ServerRefused(f"the artifacts of {job.name} have expired")
        with draft.open("wb") as file:
            there.server.artifacts(of_server, file)
        with draft.open("rb") as zipped, atomic.replacing(archive) as made, gzip.open(made, "wb", 1) as out:
            for piece in packed(zips.items(zipped)):
                out.write(piece)
        _keep_reported(there, job, draft, archive)
    except (ServerRefused, DamagedArchive) as error:
        text = error.message if isinstance(error, LoomError) else f"{job.name}: {error}"
        there.differences.add(f"artifacts of {job.name}", "present", note=f"artifacts: {text}")
    finally:
        draft.unlink(missing_ok=True)


def _keep_reported(there: ServerJob, job: Job, archive: Path, kept: Path) -> None:
    """Keep the variables of a dotenv report, which the server's API gives only where it is an artifact, too."""
    patterns = job.artifacts.reports.get("dotenv", ()) if job.artifacts is not None else ()
    values: dict[str, str] = {}
    why = "the API does not give them"
    try:
        with archive.open("rb") as file:
            for entry, content in zips.items(file):
                if entry.path in patterns and content is not None:
                    values |= dotenv.parsed(content.read(dotenv.MAX_BYTES + 1), entry.path)
    except ArtifactError as error:
        why = error.message
    dotenv.keep(values, kept)
    if patterns and not values:
        there.differences.note(f"unknown: the variables that {job.name} reported (dotenv): {why}; --var gives them")
