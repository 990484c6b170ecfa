"""Images by name: those in the engine's store, and those that it pulls. A lock file decides which ones a name means."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import docker.errors
from msgspec.structs import replace

from loom.errors import ImageError
from loom.images.reference import Reference, normal_platform, parse_reference, short, similar
from loom.plan import model
from loom.plan.image_lock import ImageLock, Locked
from loom.plan.model import Resolved
from loom.providers.base import ResolveRequest
from loom.providers.docker.engine.client import Engine, EngineClient
from loom.providers.docker.engine.errors import translated
from loom.providers.docker.engine.retries import retrying
from loom.providers.docker.images.registry import pull, same_platform, served

_LOOKING_S = 2.0
_MAY_PASS = {"IMAGE_RATE_LIMITED", "IMAGE_UNAVAILABLE", "IMAGE_DISK_FULL"}
"""The codes of errors that say nothing of a later pull."""


class ResolvedImage(Resolved):
    """An available image."""

    size: int
    platform: str
    built: bool = False


class NamedImages:
    """Thread-safe. Connects at the first question."""

    def __init__(self, engine: Engine, *, lock: ImageLock | None = None, frozen: bool = False) -> None:
        self.engine = engine
        self._lock = lock or ImageLock()
        self._frozen = frozen
        self._engine_platform: str | None = None

    @property
    def client(self) -> EngineClient:
        return self.engine()

    def platform_of(self, image: model.Image) -> str:
        """Return the image's platform, or the engine's own."""
        if image.platform:
            return normal_platform(image.platform)
        if self._engine_platform is None:
            with translated("asking the engine for its platform"):
                version = self.client.version()
            self._engine_platform = normal_platform(f"{version['Os']}/{version['Arch']}")
        return self._engine_platform

    def ensure(
        self,
        name: str,
        policy: model.PullPolicy,
        platform: str,
        request: ResolveRequest,
        *,
        of_build: bool = False,
    ) -> ResolvedImage:
        """Return an image by name, by the lock file and the pull policy. `of_build`: a Dockerfile names it."""
        reference = parse_reference(name)
        locked = self.locked(reference, platform)
        if locked is not None:
            return self._ensure_locked(reference, locked, policy, platform, request)
        local = self.local(reference, platform)
        if local is not None and (policy != "always" or reference.digest):
            return local
        try:
            if policy == "never":
                raise _missing_image(reference, platform)
            pull(self.engine, reference, platform, request)
        except ImageError as error:
            if error.code != "CANCELED":
                error.hint = f"{error.hint or ''}\n{self.alternatives(reference, of_build=of_build)}".lstrip()
            raise
        return self._required(reference, platform)

    def absent(self, images: Sequence[model.Image]) -> Mapping[str, ImageError]:
        """Implement `ImageResolver.absent`; those of a lock file are not looked at."""
        found: dict[str, ImageError] = {}

        def ask(image: model.Image, reference: Reference, platform: str) -> None:
            try:
                if image.pull == "never":
                    raise _missing_image(reference, platform)
                served(self.engine, reference)
            except ImageError as error:
                found[str(image.name)] = error
            except Exception:  # noqa: BLE001  not known: the job will meet it
                return

        asking = []
        for image in images:
            reference, platform = parse_reference(image.name or ""), self.platform_of(image)
            if image.pull_else or self._frozen or self._lock.get(reference.name, platform) is not None:
                continue
            if self.local(reference, platform) is None:
                asking.append(threading.Thread(target=ask, args=(image, reference, platform), daemon=True))
                asking[-1].start()
        until = time.monotonic() + _LOOKING_S
        for thread in asking:
            thread.join(max(0.0, until - time.monotonic()))
        lacking = {name: error for name, error in list(found.items()) if error.code not in _MAY_PASS}
        for of_build in (False, True):
            names = [
                str(image.name) for image in images if (image.build is not None) is of_build and image.name in lacking
            ]
            advice = self.alternatives(*map(parse_reference, names), of_build=of_build) if names else ""
            for name in names:
                lacking[name].hint = f"{lacking[name].hint or ''}\n{advice}".lstrip()
        return lacking

    def alternatives(self, *references: Reference, of_build: bool = False) -> str:
        """Return how to run without images that can't be had, with similar ones that are here.

        `of_build`: a Dockerfile names them, where no option replaces them.
        """
        try:
            names = [
                name for one in self.client.api.images() for name in one.get("RepoTags") or () if "<none>" not in name
            ]
        except Exception:  # noqa: BLE001  whatever the engine's client raises: the first error matters
            names = []
        found = {reference.name: similar(reference, names) for reference in references}
        others = {name: here[0] if here else "IMAGE" for name, here in found.items()}
        here = ", ".join(dict.fromkeys(name for names in found.values() for name in names))
        name, other = next(iter(others.items())) if len(others) == 1 else ("NAME", "IMAGE")
        options = " ".join(f"--image {name}={other}" for name, other in others.items())
        return (
            (f"similar ones are here: {here}\n" if here else "")
            + ("" if of_build else f"run another one instead: loom run {options}\nor ")
            + f"give another one this name: docker tag {other} {name}, or docker build -t {name} FOLDER"
        )

    def locked(self, reference: Reference, platform: str) -> Locked | None:
        """Return the lock's entry for this image. ImageError in a frozen run without such an entry."""
        locked = self._lock.get(reference.name, platform)
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
        request: ResolveRequest,
    ) -> ResolvedImage:
        pinned = parse_reference(reference.pinned(locked.digest)) if locked.digest else None
        for candidate in (pinned, reference):
            local = self.local(candidate, platform) if candidate is not None else None
            if local is not None and (candidate is pinned or local.image_id == locked.image_id):
                return replace(local, name=reference.name, digest=locked.digest or local.digest)
        if pinned is None:
            raise ImageError(
                f"{reference.name} ({platform}) on this engine is not the image that .loom/images.lock names "
                f"({short(locked.image_id)}), and that one is from no registry",
                hint="Load that one (`docker load`), or lock the present one with `loom images lock`.",
                code="IMAGE_NOT_LOCKED",
            )
        if policy == "never":
            raise ImageError(
                f"{pinned.name} ({platform}), which .loom/images.lock names, is not on this engine, "
                "and its pull policy is `never`",
                hint="Load it (`docker load`), or allow pulling.",
                code="IMAGE_NOT_PRESENT",
            )
        pull(self.engine, pinned, platform, request)
        found = self._required(pinned, platform)
        return replace(found, name=reference.name, digest=locked.digest)

    def local(self, reference: Reference, platform: str | None = None) -> ResolvedImage | None:
        """Return the image in the engine's store; None when it is absent or of another platform."""
        with translated(f"looking for the image {reference.name}"):
            try:
                attributes = retrying(lambda: self.client.api.inspect_image(reference.name))
            except docker.errors.ImageNotFound:
                return None
        image = _image(reference, attributes)
        return image if platform is None or same_platform(image.platform, platform) else None

    def _required(self, reference: Reference, platform: str) -> ResolvedImage:
        if (found := self.local(reference, platform)) is not None:
            return found
        if (other := self.local(reference)) is not None:
            raise ImageError(
                f"{reference.name} exists for {other.platform} only, not for {platform}",
                hint="Set the image's `platform`, or choose an image that is made for this one.",
                code="IMAGE_PLATFORM",
            )
        raise ImageError(f"{reference.name} was pulled, and something removed it from the engine", hint="Run again.")


def _missing_image(reference: Reference, platform: str) -> ImageError:
    return ImageError(
        f"{reference.name} ({platform}) is not on this engine, and its pull policy is `never`",
        hint=f"Load or build it first, or pull it by hand: docker pull {reference.name}",
        code="IMAGE_NOT_PRESENT",
    )


def _image(reference: Reference, attributes: Mapping[str, Any]) -> ResolvedImage:
    digests = [str(entry) for entry in attributes.get("RepoDigests") or ()]
    own = [digest for digest in digests if digest.rpartition("@")[0] == reference.repository_name]
    asked = [digest for digest in own if reference.digest and digest.endswith(f"@{reference.digest}")]
    digest = next(iter(asked or own), "").rpartition("@")[2]
    return ResolvedImage(
        name=reference.name,
        image_id=str(attributes["Id"]),
        digest=digest,
        size=int(attributes.get("Size", 0)),
        platform=normal_platform(
            "/".join(filter(None, (attributes.get("Os"), attributes.get("Architecture"), attributes.get("Variant"))))
        ),
    )
