"""Checkpoints of failed jobs, to resume after the container is gone: a file system image and a workspace archive.

Created only when a step failed and the job's place is kept. docs/guides/debug-a-failing-job.md lists the costs.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loom.errors import LoomError, ProviderError
from loom.providers.base import Session
from loom.providers.docker import labels
from loom.providers.docker.client import taking_long
from loom.providers.docker.errors import translated
from loom.providers.docker.retries import retrying
from loom.providers.files import pack
from loom.util.bounded import bounded

if TYPE_CHECKING:
    import docker

    from loom.storage.workspace import Skipped

REPOSITORY = "loom-checkpoint"
MAX_NAMED = 20
"""Number of skipped special files to name individually."""


def make(
    client: docker.DockerClient, session: Session, archive: Path, *, run_id: str, job_id: str, expires_at: float
) -> dict[str, Any]:
    """Commit the job's container and pack its view into `archive`; return the record of both."""
    begun = time.monotonic()
    packing: dict[str, Any] = {}
    left_out: list[Skipped] = []

    def save_files() -> None:
        try:
            packing["bytes"] = pack(session.get_archive(["."], left_out.append), archive)
        except BaseException as error:  # noqa: BLE001  raised again where it is waited for
            packing["error"] = error

    thread = threading.Thread(target=save_files, name=f"checkpoint {job_id}")
    thread.start()
    try:
        image_id = _commit(client, session.facts.container_id, run_id=run_id, job_id=job_id, expires_at=expires_at)
    finally:
        thread.join()  # no limit: the engine is never silent while it sends the archive
    error = packing.get("error")
    if isinstance(error, LoomError | OSError):
        raise ProviderError(f"the workspace could not be saved in {archive}: {error}") from error
    if error is not None:
        raise error
    return {
        "image_id": image_id,
        "workspace": archive.name,
        "workspace_bytes": packing["bytes"],
        **bounded("left_out", [{"path": item.path, "reason": item.reason} for item in left_out], MAX_NAMED),
        "duration_ms": round((time.monotonic() - begun) * 1000, 3),
    }


def _commit(client: docker.DockerClient, container_id: str, *, run_id: str, job_id: str, expires_at: float) -> str:
    api: Any = client.api
    marks = {
        labels.RUN: run_id,
        labels.JOB: job_id,
        labels.CHECKPOINT: "1",
        labels.EXPIRES: str(int(expires_at)),
    }
    changes = [f'LABEL "{name}"="{value}"' for name, value in marks.items()]
    tag = "".join(character if character.isalnum() or character in "_.-" else "-" for character in job_id)[:80]
    with translated(f"saving the file system of job {job_id}"), taking_long():
        # Not paused: only background processes of steps run.
        made = api.commit(container_id, REPOSITORY, f"{run_id}-{tag}", changes=changes, conf=None, pause=False)
    return str(made["Id"])


def image_is_there(client: docker.DockerClient, image_id: str) -> bool:
    api: Any = client.api
    try:
        with translated("looking for the checkpoint"):
            retrying(lambda: api.inspect_image(image_id))
    except LoomError as error:
        if getattr(error.__cause__, "status_code", None) == 404:
            return False
        raise
    return True
