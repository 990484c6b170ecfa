"""Test whether a container starts, as for a job: with a workspace, a shell and a written file."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from loom.cancel import Cancel
from loom.errors import ImageError, LoomError, ProviderError
from loom.plan.model import PROJECT_DIR, Image
from loom.providers.base import Command, SessionRequest
from loom.providers.docker.engine.errors import translated
from loom.providers.docker.engine.retries import retrying
from loom.providers.docker.provider import DockerProvider
from loom.util.within import within

if TYPE_CHECKING:
    import docker

PROBE_S = 30.0
_TRIED = 3
_SHELL = ("sh", "-e")


class Probed(Struct, frozen=True, kw_only=True):
    """A container of `image` started, ran a command in a workspace, and was removed."""

    image: str
    duration_ms: float


def probe(client: docker.DockerClient, default_image: str, tmp_dir: Path, *, limit_s: float = PROBE_S) -> Probed | None:
    """Start a container of the default image, else of the smallest image with a shell; pulls nothing.

    None when the engine has no image. ProviderError or ImageError when none started within `limit_s`.
    """
    deadline = time.monotonic() + limit_s
    failed: LoomError | None = None
    for name, image_id in candidates(client, default_image):
        begun = time.monotonic()
        try:
            _start_within(deadline - begun, client, name, image_id, tmp_dir)
        except ImageError as error:  # no shell in it, or another architecture
            failed = failed or error
            continue
        return Probed(image=name, duration_ms=(time.monotonic() - begun) * 1000)
    if failed is not None:
        raise failed
    return None


def candidates(client: docker.DockerClient, default_image: str) -> Iterator[tuple[str, str]]:
    """Return (name, id) of local images: only the default one, else the smallest few."""
    api: Any = client.api
    with translated("looking for an image"):
        images = list(retrying(api.images))
    names = {name: image for image in images for name in image.get("RepoTags") or () if not name.startswith("<none>")}
    wanted = names.get(default_image) or names.get(f"{default_image}:latest")
    if wanted is not None:
        yield default_image, str(wanted["Id"])
        return
    for name, image in sorted(names.items(), key=lambda item: (item[1]["Size"], item[0]))[:_TRIED]:
        yield name, str(image["Id"])


def _start_within(limit_s: float, client: docker.DockerClient, name: str, image_id: str, tmp_dir: Path) -> None:
    """In a thread, as an engine may hang: leftovers are labelled, and the next run removes them."""
    cancel, ended = Cancel(), threading.Event()

    def start() -> None:
        try:
            _start(client, name, image_id, tmp_dir, cancel)
        finally:
            ended.set()

    try:
        within(max(limit_s, 0), start)
    except TimeoutError:
        cancel.request(None)
        ended.wait(5)
        raise ProviderError(
            f"a container of {name} did not start, run a command and end in time",
            hint="see the engine's log, such as `journalctl -u docker`; restart it if it hangs",
            code="PROBE_TIMED_OUT",
        ) from None


def _start(client: docker.DockerClient, name: str, image_id: str, tmp_dir: Path, cancel: Cancel) -> None:
    tmp_dir.mkdir(parents=True, exist_ok=True)
    provider = DockerProvider(lambda: client, pid=os.getpid())
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
        printed: list[bytes] = []
        try:
            with provider.open(request, lambda _, data: printed.append(data), cancel) as session:
                ended = session.run(
                    Command(script="echo loom > written", shell=_SHELL), lambda _, data: printed.append(data), cancel
                )
        finally:
            left = provider.close(cancel)
        if ended.code != 0 or not Path(folder, "written").exists():
            output = b"".join(printed).decode("utf-8", "replace").strip()
            raise ProviderError(
                f"a container of {name} started, but could not write into its workspace {folder}"
                + (f": {output[-500:]}" if output else ""),
                hint="the engine must see this machine's files; else use `--mount-mode ephemeral_volume`",
            )
        if left:
            raise ProviderError(f"a container of {name} started, but could not be removed: {left[0]}")
