"""A run's images: by name, or from a build.

One `Images` serves one run and resolves each image once. Concurrent requests for one image wait for one pull; later
jobs get the same image, even if the registry has a newer one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from pathlib import Path

from msgspec.structs import replace

from loom.cancel import Cancel
from loom.errors import ImageError
from loom.plan import model
from loom.plan.image_lock import ImageLock, identity, shown
from loom.providers.base import ResolveRequest
from loom.providers.docker.engine.client import Engine
from loom.providers.docker.engine.long_calls import canceled
from loom.providers.docker.images.named import NamedImages, ResolvedImage


class Images(NamedImages):
    """Thread-safe. Connects at the first `resolve`."""

    def __init__(self, engine: Engine, *, lock: ImageLock | None = None, frozen: bool = False) -> None:
        super().__init__(engine, lock=lock, frozen=frozen)
        self._guard = threading.Lock()
        self._resolved: dict[object, Future[ResolvedImage]] = {}
        self._inputs: dict[tuple[str, str], Path] = {}
        self.identity_of: Callable[[str], str | None] = lambda folder: None
        """Identifies a folder's content, for builds; None if that requires reading the files."""

    def resolve(self, image: model.Image, request: ResolveRequest) -> ResolvedImage:
        """Resolve the image by its pull policy and the lock file. ImageError names the problem and the next move."""
        key = (identity(image), image.pull, image.pull_else)
        with self._guard:
            found = self._resolved.get(key)
            first = found is None
            if found is None:
                found = self._resolved[key] = Future()
        if not first:
            return _wait_for(found, image, request.cancel)
        try:
            resolved = self._resolve(image, request)
        except BaseException as error:
            # Waiting threads fail with this one; a later request (a retried job) starts again.
            with self._guard:
                del self._resolved[key]
            found.set_exception(error)
            raise
        found.set_result(resolved)
        return resolved

    def _resolve(self, image: model.Image, request: ResolveRequest) -> ResolvedImage:
        if image.build is not None:
            # Imported only for builds: other jobs should not wait for it.
            from loom.providers.docker.images.build import build_image

            root = self._inputs.get((image.build.context, image.build.dockerfile), request.workspace)
            return build_image(self, image, replace(request, workspace=root), identity_of=self.identity_of)
        if image.name is None:
            raise ImageError("the job's image has neither a name nor a build", hint="Give it one of the two.")
        # By its pull policies in order; the error is that of the last one.
        platform = self.platform_of(image)
        policies = (image.pull, *image.pull_else)
        for policy, following in zip(policies, image.pull_else, strict=False):
            try:
                return self.ensure(image.name, policy, platform, request)
            except ImageError as error:
                if request.cancel.requested:
                    raise
                request.say(f"{error.message}; the next pull policy is `{following}`")
        return self.ensure(image.name, policies[-1], platform, request)

    def keep_inputs(self, builds: Iterable[model.Build], *, workspace: Path, folder: Path) -> None:
        """Copy the inputs of these builds from `workspace` to `folder`: later writes of jobs do not change the builds."""
        from loom.images.dockerfile import copy_inputs

        for one in builds:
            key = (one.context, one.dockerfile)
            if key in self._inputs:
                continue
            copy = folder / str(len(self._inputs))
            try:
                copy_inputs(workspace, copy, context=one.context, dockerfile=one.dockerfile)
            except OSError as error:
                raise ImageError(
                    f"what {shown(model.Image(build=one))} is built from can't be kept in {copy}: {error.strerror or error}",
                    hint="free some space or give permission there, or name another directory with LOOM_STATE_DIR",
                    code="IMAGE_BUILD_INPUT",
                ) from error
            self._inputs[key] = copy


def _wait_for(found: Future[ResolvedImage], image: model.Image, cancel: Cancel) -> ResolvedImage:
    while not found.done():
        if cancel.requested:
            raise canceled(f"waiting for {shown(image)}")
        wait([found], timeout=0.1)
    return found.result()  # no limit: it is done
