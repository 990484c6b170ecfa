"""A workflow's images for `loom images`: pulled, and locked to what the registries serve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from loom.cancel import Cancel
from loom.errors import ImageError
from loom.images.reference import Reference, normal_platform, parse_reference
from loom.plan import model
from loom.plan.image_lock import ImageLock, ImageUse, Locked
from loom.providers.base import ResolveRequest
from loom.providers.docker.images.build_inputs import bases_for
from loom.providers.docker.images.named import NamedImages, ResolvedImage
from loom.providers.docker.images.registry import same_platform, served
from loom.status import OnOutput
from loom.values import Immutable


class NamedImage(Immutable):
    """A named image: of a job, a service, or the base of a build."""

    reference: Reference
    platform: str
    used_by: tuple[str, ...]
    pull: model.PullPolicy = "missing"

    @property
    def name(self) -> str:
        return self.reference.name


class Inventory:
    """The images of one plan. `root` holds the inputs of builds that have no other: the checkout."""

    def __init__(self, images: NamedImages, uses: Sequence[ImageUse], *, root: Path, lock: ImageLock | None) -> None:
        self._images = images
        self._uses = uses
        self._root = root
        self._lock = lock or ImageLock()

    def named(self) -> list[NamedImage]:
        """Return every named image, including bases of builds, once per platform.

        ImageError when a build's Dockerfile can't be read.
        """
        found: dict[tuple[str, str], NamedImage] = {}

        def add(named: NamedImage) -> None:
            key = (named.name, named.platform)
            known = found.get(key)
            used_by = named.used_by if known is None else tuple(dict.fromkeys((*known.used_by, *named.used_by)))
            found[key] = replace(named, used_by=used_by)

        for use in self._uses:
            if use.image.build is None:
                platform = self._images.platform_of(use.image)
                reference = parse_reference(use.image.name or "")
                add(NamedImage(reference=reference, platform=platform, used_by=use.used_by, pull=use.image.pull))
                continue
            for name, platform in bases_for(self._images, use.image, Path(use.root) if use.root else self._root):
                users = tuple(f"build of {user}" for user in use.used_by)
                add(NamedImage(reference=parse_reference(name), platform=platform, used_by=users, pull=use.image.pull))
        return list(found.values())

    def pull(self, named: NamedImage, *, on_output: OnOutput, cancel: Cancel) -> ResolvedImage:
        """Pull each image by the lock file or, without an entry, by name. Images without a registry are skipped."""
        request = ResolveRequest(workspace=self._root, on_output=on_output, cancel=cancel)
        try:
            return self._images.ensure(named.name, "always", named.platform, request)
        except ImageError as error:
            local = self._images.local(named.reference, named.platform)
            if local is None or local.digest or error.code not in ("IMAGE_NOT_FOUND", "IMAGE_DENIED"):
                raise
            request.say(f"{named.name} is from no registry: using the one that is here")
            return local

    def lock(
        self, platforms: Sequence[str], *, local_only: bool = False
    ) -> tuple[ImageLock, list[tuple[NamedImage, str]]]:
        """Return the lock for the registries' present state, and unlockable images with the reason.

        `platforms` are locked in addition to each image's own. Other platforms' entries of used images stay.
        `local_only`: lock this engine's images without a registry.
        """
        lock = self._lock.only({named.name for named in self.named()})
        failed: list[tuple[NamedImage, str]] = []
        for named in self.named():
            if named.reference.digest:
                continue  # a pinned name needs no entry
            local = self._images.local(named.reference, named.platform)
            if local_only:
                if local is None:
                    failed.append((named, "it is not on this engine"))
                else:
                    found = Locked(digest=local.digest, image_id=local.image_id)
                    lock = lock.holding(named.name, named.platform, found)
                continue
            try:
                digest, made_for = served(self._images.engine, named.reference)
            except ImageError as error:
                if local is not None and not local.digest and error.code in ("IMAGE_NOT_FOUND", "IMAGE_DENIED"):
                    # Built here and never published: lock its content.
                    lock = lock.holding(named.name, named.platform, Locked(image_id=local.image_id))
                else:
                    failed.append((named, error.message))
                continue
            for platform in dict.fromkeys([named.platform, *map(normal_platform, platforms)]):
                if made_for and not any(same_platform(one, platform) for one in made_for):
                    failed.append((replace(named, platform=platform), f"it is not made for {platform}"))
                    continue
                before = self._lock.get(named.name, platform)
                here = local is not None and platform == named.platform and local.digest == digest
                image_id = local.image_id if here and local is not None else ""
                if not here and before is not None and before.digest == digest:
                    image_id = before.image_id  # perhaps from another machine
                lock = lock.holding(named.name, platform, Locked(digest=digest, image_id=image_id))
        return lock, failed
