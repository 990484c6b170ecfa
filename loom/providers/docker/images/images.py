"""A run's images: from the engine's store, a registry, or a build.

One `Images` serves one run and resolves each image once. Concurrent requests for one image wait for one pull; later
jobs get the same image, even if the registry has a newer one.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, wait
from pathlib import Path
from types import MappingProxyType

from loom.cancel import Cancel
from loom.errors import ImageError
from loom.plan import model
from loom.plan.image_lock import ImageLock, identity, shown
from loom.providers.docker.engine.connection import Engine
from loom.providers.docker.engine.errors import translated
from loom.providers.docker.engine.long_calls import canceled, say
from loom.providers.docker.images.store import ImageStore, ResolvedImage
from loom.status import OnOutput


class Images:
    """Thread-safe. Connects at the first `resolve`."""

    def __init__(self, engine: Engine, *, lock: ImageLock | None = None, frozen: bool = False) -> None:
        self.store = ImageStore(engine, lock=lock, frozen=frozen)
        self._guard = threading.Lock()
        self._resolved: dict[object, Future[ResolvedImage]] = {}
        self._inputs: dict[tuple[str, str], Path] = {}
        self.identity_of: Callable[[str], str | None] = lambda folder: None
        """Identifies a folder's content, for builds; None if that requires reading the files."""

    def resolve(
        self,
        image: model.Image,
        *,
        workspace: Path,
        on_output: OnOutput,
        cancel: Cancel,
        secrets: Mapping[str, bytes] = MappingProxyType({}),
    ) -> ResolvedImage:
        """Resolve the image by its pull policy and the lock file. ImageError names the problem and the next move.

        `secrets`: values by name, of which a build can mount those that it declares.
        """
        key = (identity(image), image.pull, image.pull_else)
        with self._guard:
            found = self._resolved.get(key)
            first = found is None
            if found is None:
                found = self._resolved[key] = Future()
        if not first:
            return _wait_for(found, image, on_output, cancel)
        try:
            resolved = self._resolve(image, workspace, on_output, cancel, secrets)
        except BaseException as error:
            # Waiting threads fail with this one; a later request (a retried job) starts again.
            with self._guard:
                del self._resolved[key]
            found.set_exception(error)
            raise
        found.set_result(resolved)
        return resolved

    def _resolve(
        self, image: model.Image, workspace: Path, on_output: OnOutput, cancel: Cancel, secrets: Mapping[str, bytes]
    ) -> ResolvedImage:
        if image.build is not None:
            # Imported only for builds: other jobs should not wait for it.
            from loom.providers.docker.images.build import build_image

            root = self._inputs.get((image.build.context, image.build.dockerfile), workspace)
            return build_image(
                self.store,
                image,
                workspace=root,
                identity_of=self.identity_of,
                on_output=on_output,
                cancel=cancel,
                secrets=secrets,
            )
        if image.name is None:
            raise ImageError("the job's image has neither a name nor a build", hint="Give it one of the two.")
        try:
            return self._by_policies(image.name, image, on_output=on_output, cancel=cancel)
        except ImageError as error:
            near = self._near(image.name) if error.code in _MAY_BE_MISSPELT else []
            if not near:
                raise
            hint = f"on this engine: {', '.join(near)}"
            raise ImageError(
                error.message, hint=f"{error.hint}\n{hint}" if error.hint else hint, code=error.code
            ) from error

    def _by_policies(self, name: str, image: model.Image, *, on_output: OnOutput, cancel: Cancel) -> ResolvedImage:
        """Try the image's pull policies in order; the error is that of the last one."""
        platform = self.store.platform_of(image)
        policies = (image.pull, *image.pull_else)
        for policy, following in zip(policies, image.pull_else, strict=False):
            try:
                return self.store.ensure(name, policy, platform, on_output=on_output, cancel=cancel)
            except ImageError as error:
                if cancel.requested:
                    raise
                say(on_output, f"{error.message}; the next pull policy is `{following}`")
        return self.store.ensure(name, policies[-1], platform, on_output=on_output, cancel=cancel)

    def _near(self, name: str) -> list[str]:
        """Find images of this engine with similar names."""
        import difflib

        with translated("looking for images with names like this one"):
            tags = [tag for found in self.store.client.api.images() for tag in found.get("RepoTags") or ()]
        base = {tag: tag.rpartition("/")[2] for tag in tags}
        close = difflib.get_close_matches(name.rpartition("/")[2], set(base.values()), n=3, cutoff=0.6)
        return sorted((tag for tag in tags if base[tag] in close), key=lambda tag: close.index(base[tag]))[:3]

    def keep_inputs(self, builds: Iterable[model.Build], *, workspace: Path, folder: Path) -> None:
        """Copy the inputs of these builds from `workspace` to `folder`: later writes of jobs do not change the builds."""
        from loom.images.dockerfile import copy_inputs

        for one in builds:
            key = (one.context, one.dockerfile)
            if key in self._inputs:
                continue
            place = folder / str(len(self._inputs))
            try:
                copy_inputs(workspace, place, context=one.context, dockerfile=one.dockerfile)
            except OSError as error:
                raise ImageError(
                    f"what {shown(model.Image(build=one))} is built from can't be kept in {place}: {error.strerror or error}",
                    hint="free some space or give permission there, or name another directory with LOOM_STATE_DIR",
                    code="IMAGE_BUILD_INPUT",
                ) from error
            self._inputs[key] = place


def _wait_for(found: Future[ResolvedImage], image: model.Image, on_output: OnOutput, cancel: Cancel) -> ResolvedImage:
    # Most images are present: report only noticeable waits.
    worth_a_line_at = time.monotonic() + 0.5
    while not found.done():
        if cancel.requested:
            raise canceled(f"waiting for {shown(image)}")
        if time.monotonic() > worth_a_line_at:
            say(on_output, f"waiting for {shown(image)}, which another job is getting")
            worth_a_line_at = math.inf
        wait([found], timeout=0.1)
    return found.result()  # no limit: it is done


_MAY_BE_MISSPELT = frozenset({"IMAGE_NOT_FOUND", "IMAGE_DENIED", "IMAGE_NOT_PRESENT", "IMAGE_REGISTRY_DOWN"})
