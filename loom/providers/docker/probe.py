"""Test whether a container starts, as for a job: with a workspace, a shell and a written file."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from loom.cancel import Cancel
from loom.errors import ImageError, ProviderError
from loom.plan.model import PROJECT_DIR, Image
from loom.providers.base import SessionRequest
from loom.providers.command import Command
from loom.providers.docker.engine.client import EngineClient
from loom.providers.docker.engine.retries import asked
from loom.providers.docker.provider import DockerProvider

_TRIED = 3
_SHELL = ("sh", "-e")


def probe(client: EngineClient, default_image: str, tmp_dir: Path) -> tuple[str, float] | None:
    """Start a container of the default image, else of the smallest one with a shell; return its name and the milliseconds.

    Pulls nothing: None when the engine has no image. ProviderError or ImageError when none started.
    """
    images = asked("looking for an image", client.api.images)
    names = {name: image for image in images for name in image.get("RepoTags") or () if not name.startswith("<none>")}
    default = [name for name in (default_image, f"{default_image}:latest") if name in names]
    failed: ImageError | None = None
    for name in default[:1] or sorted(names, key=lambda name: (names[name]["Size"], name))[:_TRIED]:
        begun = time.monotonic()
        try:
            _start(client, name, str(names[name]["Id"]), tmp_dir)
        except ImageError as error:  # no shell in it, or another architecture
            failed = failed or error
            continue
        return name, (time.monotonic() - begun) * 1000
    if failed is not None:
        raise failed
    return None


def _start(client: EngineClient, name: str, image_id: str, tmp_dir: Path) -> None:
    tmp_dir.mkdir(parents=True, exist_ok=True)
    provider, cancel, printed = DockerProvider(lambda: client), Cancel(), list[bytes]()
    with tempfile.TemporaryDirectory(prefix="loom-doctor-", dir=tmp_dir) as folder:
        request = SessionRequest(
            run_id=str(time.time_ns()),
            job_id="doctor",
            workspace=Path(folder),
            project_dir=PROJECT_DIR,
            shell=_SHELL,
            image=Image(name=name, pull="never"),
            image_id=image_id,
        )
        command = Command(script="echo loom > written", shell=_SHELL)
        try:
            with provider.open(request, lambda _, data: printed.append(data), cancel) as session:
                ended = session.run(command, lambda _, data: printed.append(data), cancel)
        finally:
            left = provider.close(cancel)
        if ended.code != 0 or not Path(folder, "written").exists():
            output = b"".join(printed).decode("utf-8", "replace").strip()[-500:]
            raise ProviderError(
                f"a container of {name} started, but could not write into its workspace {folder}: {output}",
                hint="the engine must see this machine's files; else use `--mount-mode ephemeral_volume`",
            )
        if left:
            raise ProviderError(f"a container of {name} started, but could not be removed: {left[0]}")
