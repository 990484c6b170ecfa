"""The images of pods: names for the cluster to pull, pinned by the lock file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from loom.cancel import Cancel
from loom.errors import ImageError
from loom.images.reference import parse_reference
from loom.plan.image_lock import ImageLock
from loom.plan.model import Build, Image
from loom.providers.base import Resolved
from loom.status import OnOutput

DEFAULT_PLATFORM = "linux/amd64"


class PodImages:
    """Implements `providers.base.ImageResolver`: the nodes pull, so nothing is made available here.

    `Resolved.image_id` is what the pod names: with a digest where one is known.
    """

    def __init__(self, lock: ImageLock | None, *, frozen: bool) -> None:
        self._lock = lock
        self._frozen = frozen
        self.identity_of: Callable[[str], str | None] = lambda folder: None

    def resolve(
        self, image: Image, *, workspace: Path, on_output: OnOutput, cancel: Cancel, secrets: Mapping[str, bytes]
    ) -> Resolved:
        if image.build is not None or image.name is None:
            raise ImageError(
                "an image that is built from the repository is not in a registry, where a cluster's nodes could get it",
                hint="push it, and name it in `image:`; or run this job in Docker",
                code="CLUSTER_IMAGE_UNAVAILABLE",
            )
        reference = parse_reference(image.name)
        if reference.digest:
            return Resolved(name=image.name, image_id=image.name, digest=reference.digest)
        locked = self._lock.get(image.name, image.platform or DEFAULT_PLATFORM) if self._lock else None
        if locked is not None and locked.digest:
            return Resolved(name=image.name, image_id=reference.pinned(locked.digest), digest=locked.digest)
        if self._frozen:
            raise ImageError(
                f"{image.name} has no digest in the lock file, and a frozen run (--frozen, --strict) uses nothing else",
                hint="`loom images lock` adds it, for an image that a registry has",
                code="IMAGE_NOT_LOCKED",
            )
        return Resolved(name=image.name, image_id=image.name)

    def keep_inputs(self, builds: Iterable[Build], *, workspace: Path, folder: Path) -> None:
        """Keep nothing: nothing is built."""
