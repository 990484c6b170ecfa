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
from typing import Any

import docker
import docker.errors
from msgspec import Struct
from msgspec.structs import replace

from loom.cancel import Cancel
from loom.errors import ImageError
from loom.images.reference import Reference, normal_platform, parse_reference, short
from loom.plan import model
from loom.plan.image_lock import ImageLock, Locked, identity, shown
from loom.providers.docker.engine.connection import Engine
from loom.providers.docker.engine.errors import translated
from loom.providers.docker.engine.long_calls import LongCall, canceled, say
from loom.providers.docker.engine.retries import retrying
from loom.providers.docker.images.registry import Registry, same_platform
from loom.status import OnOutput


class ResolvedImage(Struct, frozen=True, kw_only=True):
    """An available image. `digest` is the registry's ("" if none), `user` the image's."""

    name: str
    image_id: str
    digest: str
    size: int
    user: str
    platform: str
    built: bool = False
    created: str = ""
    """The image's creation time (RFC 3339)."""
    bases: tuple[ResolvedImage, ...] = ()
    """The inputs of its build, if this run built or found it."""


class Images:
    """Thread-safe. Connects at the first `resolve`."""

    def __init__(self, engine: Engine, *, lock: ImageLock | None = None, frozen: bool = False) -> None:
        self._engine = engine
        self._lock = lock
        self._frozen = frozen
        self._guard = threading.Lock()
        self._resolved: dict[object, Future[ResolvedImage]] = {}
        self._inputs: dict[tuple[str, str], Path] = {}
        self.identity_of: Callable[[str], str | None] = lambda folder: None
        """Identifies a folder's content, for builds; None if that requires reading the files."""
        self._engine_platform: str | None = None
        self.registry = Registry(engine)

    @property
    def client(self) -> docker.DockerClient:
        return self._engine()

    def line(self) -> LongCall:
        """Return a separate connection for one long call."""
        return LongCall(self._engine.another())

    def platform_of(self, image: model.Image) -> str:
        """Return the image's platform, or the engine's own."""
        if image.platform:
            return normal_platform(image.platform)
        if self._engine_platform is None:
            with translated("asking the engine for its platform"):
                version = self.client.version()
            self._engine_platform = normal_platform(f"{version['Os']}/{version['Arch']}")
        return self._engine_platform

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
        self,
        image: model.Image,
        workspace: Path,
        on_output: OnOutput,
        cancel: Cancel,
        secrets: Mapping[str, bytes],
    ) -> ResolvedImage:
        if image.build is not None:
            # Imported only for builds: other jobs should not wait for it.
            from loom.providers.docker.images.build import build_image

            root = self._inputs.get((image.build.context, image.build.dockerfile), workspace)
            return build_image(
                self,
                image,
                environ=self._engine.environ,
                workspace=root,
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
        platform = self.platform_of(image)
        policies = (image.pull, *image.pull_else)
        for policy, following in zip(policies, image.pull_else, strict=False):
            try:
                return self.ensure(name, policy, platform, on_output=on_output, cancel=cancel)
            except ImageError as error:
                if cancel.requested:
                    raise
                say(on_output, f"{error.message}; the next pull policy is `{following}`")
        return self.ensure(name, policies[-1], platform, on_output=on_output, cancel=cancel)

    def _near(self, name: str) -> list[str]:
        """Find images of this engine with similar names."""
        import difflib

        with translated("looking for images with names like this one"):
            tags = [tag for found in self.client.api.images() for tag in found.get("RepoTags") or ()]
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
                    hint="free some space or give permission there, or name another place with LOOM_STATE_DIR",
                    code="IMAGE_BUILD_INPUT",
                ) from error
            self._inputs[key] = place

    def find(self, image: model.Image, *, workspace: Path) -> ResolvedImage | None:
        """Return what `resolve` would use without a pull or a build; None when it needs one."""
        platform = self.platform_of(image)
        if image.build is None:
            return self.present(image.name or "", platform)

        tag = self.build_tag(image, workspace=workspace)
        found = self.local(parse_reference(tag), platform) if tag is not None else None
        return found and replace(found, name=parse_reference(image.name).name if image.name else found.name, built=True)

    def build_tag(self, image: model.Image, *, workspace: Path) -> str | None:
        """Return the tag of a build with these inputs; None when a base image is not here or the files have no identity."""

        def ensure(name: str, platform: str) -> ResolvedImage:
            present = self.present(name, platform)
            if present is None:
                raise _NotHere(name)
            return present

        from loom.providers.docker.images.build_inputs import settle

        try:
            inputs = settle(self, image, workspace=workspace, ensure=ensure)
            return inputs.tag if inputs.known else None
        except _NotHere:
            return None

    def present(self, name: str, platform: str) -> ResolvedImage | None:
        """Return the image that the lock or, without an entry there, the name means; None when this engine lacks it."""
        reference = parse_reference(name)
        locked = self._lock.get(reference.name, platform) if self._lock is not None else None
        return self.local(reference, platform) if locked is None else self._local_locked(reference, locked, platform)

    def ensure(
        self, name: str, policy: model.PullPolicy, platform: str, *, on_output: OnOutput, cancel: Cancel
    ) -> ResolvedImage:
        """Return an image by name, by the lock file and the pull policy."""
        reference = parse_reference(name)
        locked = self.locked(reference, platform)
        if locked is not None:
            return self._ensure_locked(reference, locked, policy, platform, on_output, cancel)
        local = self.local(reference, platform)
        if local is not None and (policy != "always" or reference.digest):
            return local
        if policy == "never":
            raise ImageError(
                f"{reference.name} ({platform}) is not on this engine, and its pull policy is `never`",
                hint=f"Load or build it first, or pull it by hand: docker pull {reference.name}",
                code="IMAGE_NOT_PRESENT",
            )
        self.registry.pull(reference, platform, on_output=on_output, cancel=cancel)
        return self._required(reference, platform)

    def locked(self, reference: Reference, platform: str) -> Locked | None:
        """Return the lock's entry for this image. ImageError in a frozen run without such an entry."""
        locked = self._lock.get(reference.name, platform) if self._lock is not None else None
        if locked is None and reference.digest:
            return Locked(digest=reference.digest)
        if locked is None and self._frozen:
            raise ImageError(
                f"{reference.name} ({platform}) is not in .loom/images.lock, "
                "and a frozen run (--frozen, --strict) uses nothing else",
                hint="Add it with `loom images lock`, review the change and commit it.",
                code="IMAGE_NOT_LOCKED",
            )
        return locked

    def _ensure_locked(
        self,
        reference: Reference,
        locked: Locked,
        policy: model.PullPolicy,
        platform: str,
        on_output: OnOutput,
        cancel: Cancel,
    ) -> ResolvedImage:
        if (local := self._local_locked(reference, locked, platform)) is not None:
            return local
        pinned = parse_reference(reference.pinned(locked.digest)) if locked.digest else None
        if pinned is None:
            raise ImageError(
                f"{reference.name} ({platform}) on this engine is not the image that .loom/images.lock names "
                f"({short(locked.image_id)}), and that one is from no registry",
                hint="Import it (`loom images import FILE`), or lock the present one with `loom images lock`.",
                code="IMAGE_NOT_LOCKED",
            )
        if policy == "never":
            raise ImageError(
                f"{pinned.name} ({platform}), which .loom/images.lock names, is not on this engine, "
                "and its pull policy is `never`",
                hint="Import it (`loom images import FILE`), or allow pulling.",
                code="IMAGE_NOT_PRESENT",
            )
        self.registry.pull(pinned, platform, on_output=on_output, cancel=cancel)
        found = self._required(pinned, platform)
        return replace(found, name=reference.name, digest=locked.digest)

    def _local_locked(self, reference: Reference, locked: Locked, platform: str) -> ResolvedImage | None:
        pinned = parse_reference(reference.pinned(locked.digest)) if locked.digest else None
        for candidate in (pinned, reference):
            local = self.local(candidate, platform) if candidate is not None else None
            if local is not None and (candidate is pinned or local.image_id == locked.image_id):
                return replace(local, name=reference.name, digest=locked.digest or local.digest)
        return None

    def local(self, reference: Reference, platform: str | None = None) -> ResolvedImage | None:
        """Return the image in the engine's store; None when it is absent or of another platform."""
        api: Any = self.client.api
        with translated(f"looking for the image {reference.name}"):
            try:
                attributes = retrying(lambda: api.inspect_image(reference.name))
            except docker.errors.ImageNotFound:
                return None
        image = _image(reference.name, reference, attributes)
        return image if platform is None or same_platform(image.platform, platform) else None

    def _required(self, reference: Reference, platform: str) -> ResolvedImage:
        found = self.local(reference, platform)
        if found is None:
            other = self.local(reference)
            if other is not None:
                raise ImageError(
                    f"{reference.name} is there for {other.platform} only, and {platform} was asked for",
                    hint="Set the image's `platform`, or choose an image that is made for this one.",
                    code="IMAGE_PLATFORM",
                )
            raise ImageError(
                f"{reference.name} was pulled, and the engine does not have it now",
                hint="Something removed it (an automatic prune?). Run again.",
            )
        return found


class _NotHere(Exception):
    """A base image of a build is not on this engine."""


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


def _image(name: str, reference: Reference, attributes: Mapping[str, Any]) -> ResolvedImage:
    digests = [str(entry) for entry in attributes.get("RepoDigests") or ()]
    own = [digest for digest in digests if digest.rpartition("@")[0] == reference.repository_name]
    asked = [digest for digest in own if reference.digest and digest.endswith(f"@{reference.digest}")]
    digest = next(iter(asked or own), "").rpartition("@")[2]
    config = attributes.get("Config") or {}
    return ResolvedImage(
        name=name,
        image_id=str(attributes["Id"]),
        digest=digest,
        size=int(attributes.get("Size", 0)),
        user=str(config.get("User") or ""),
        created=str(attributes.get("Created") or ""),
        platform=normal_platform(
            "/".join(filter(None, (attributes.get("Os"), attributes.get("Architecture"), attributes.get("Variant"))))
        ),
    )


_MAY_BE_MISSPELT = frozenset({"IMAGE_NOT_FOUND", "IMAGE_DENIED", "IMAGE_NOT_PRESENT", "IMAGE_REGISTRY_DOWN"})
