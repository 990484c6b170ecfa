"""The status of a workflow's images for `loom images`: engine, lock file, registries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from loom.cancel import Cancel
from loom.errors import ImageError
from loom.images.reference import Reference, normal_platform, parse_reference
from loom.plan import model
from loom.plan.image_lock import ImageLock, ImageUse, Locked, shown
from loom.providers.docker.engine.long_calls import say
from loom.providers.docker.images.build_inputs import bases_for
from loom.providers.docker.images.store import ImageStore, ResolvedImage
from loom.status import OnOutput


class Named(Struct, frozen=True, kw_only=True):
    """A named image: of a job, a service, or the base of a build."""

    reference: Reference
    platform: str
    used_by: tuple[str, ...]
    pull: model.PullPolicy = "missing"

    @property
    def name(self) -> str:
        return self.reference.name


class Row(Struct, frozen=True, kw_only=True):
    """One row of `images ls`. `kind` is `pull`, `build` or `base` (of a build); `problem` explains missing data.

    Only a run can tell whether a build is still current.
    """

    name: str
    kind: str
    platform: str
    used_by: tuple[str, ...]
    locked: bool = False
    image: ResolvedImage | None = None
    problem: str | None = None


class Inventory:
    """The images of one plan. `root` holds the inputs of builds: the checkout."""

    def __init__(self, store: ImageStore, uses: Sequence[ImageUse], *, root: Path, lock: ImageLock | None) -> None:
        self._store = store
        self._uses = uses
        self._root = root
        self._lock = lock or ImageLock()

    def rows(self) -> list[Row]:
        rows = [self._row(use) for use in self._uses]
        known = {(row.name, row.platform) for row in rows}
        bases = [named for named in self.named(whole=False) if (named.name, named.platform) not in known]
        return [*rows, *(self._named_row(named, "base") for named in bases)]

    def _row(self, use: ImageUse) -> Row:
        if use.image.build is None:
            return self._named_row(self._direct(use), "pull")
        problem = None
        try:
            bases_for(self._store, use.image, self._root)
        except ImageError as error:
            problem = error.message
        return Row(
            name=parse_reference(use.image.name).name if use.image.name else shown(use.image),
            kind="build",
            platform=self._store.platform_of(use.image),
            used_by=use.used_by,
            problem=problem,
        )

    def _named_row(self, named: Named, kind: str) -> Row:
        return Row(
            name=named.name,
            kind=kind,
            platform=named.platform,
            used_by=named.used_by,
            locked=self._lock.get(named.name, named.platform) is not None,
            image=self._store.present(named.name, named.platform),
        )

    def _direct(self, use: ImageUse) -> Named:
        return Named(
            reference=parse_reference(use.image.name or ""),
            platform=self._store.platform_of(use.image),
            used_by=use.used_by,
            pull=use.image.pull,
        )

    def named(self, *, whole: bool = True) -> list[Named]:
        """Return every named image, including bases of builds, once per platform.

        ImageError when a build's Dockerfile can't be read; if not `whole`, skip the bases of such builds.
        """
        found: dict[tuple[str, str], Named] = {}

        def add(named: Named) -> None:
            key = (named.name, named.platform)
            known = found.get(key)
            used_by = named.used_by if known is None else tuple(dict.fromkeys((*known.used_by, *named.used_by)))
            found[key] = replace(named, used_by=used_by)

        for use in self._uses:
            if use.image.build is None:
                add(self._direct(use))
                continue
            try:
                bases = bases_for(self._store, use.image, self._root)
            except ImageError:
                if whole:
                    raise
                continue
            for name, platform in bases:
                users = tuple(f"build of {user}" for user in use.used_by)
                add(Named(reference=parse_reference(name), platform=platform, used_by=users, pull=use.image.pull))
        return list(found.values())

    def pull(self, named: Named, *, on_output: OnOutput, cancel: Cancel) -> ResolvedImage:
        """Pull each image by the lock file or, without an entry, by name. Images without a registry are skipped."""
        try:
            return self._store.ensure(named.name, "always", named.platform, on_output=on_output, cancel=cancel)
        except ImageError as error:
            local = self._store.local(named.reference, named.platform)
            if local is None or local.digest or error.code not in ("IMAGE_NOT_FOUND", "IMAGE_DENIED"):
                raise
            say(on_output, f"{named.name} is from no registry: using the one that is here")
            return local

    def lock(self, platforms: Sequence[str], *, local_only: bool = False) -> tuple[ImageLock, list[tuple[Named, str]]]:
        """Return the lock for the registries' present state, and unlockable images with the reason.

        `platforms` are locked in addition to each image's own. Other platforms' entries of used images stay.
        `local_only`: lock this engine's images without a registry.
        """
        lock = self._lock.only({named.name for named in self.named()})
        failed: list[tuple[Named, str]] = []
        for named in self.named():
            if named.reference.digest:
                continue  # a pinned name needs no entry
            local = self._store.local(named.reference, named.platform)
            if local_only:
                if local is None:
                    failed.append((named, "it is not on this engine"))
                else:
                    found = Locked(digest=local.digest, image_id=local.image_id)
                    lock = lock.holding(named.name, named.platform, found)
                continue
            try:
                served = self._store.registry.served(named.reference)
            except ImageError as error:
                if local is not None and not local.digest and error.code in ("IMAGE_NOT_FOUND", "IMAGE_DENIED"):
                    # Built here and never published: lock its content.
                    lock = lock.holding(named.name, named.platform, Locked(image_id=local.image_id))
                else:
                    failed.append((named, error.message))
                continue
            for platform in dict.fromkeys([named.platform, *map(normal_platform, platforms)]):
                if served.platforms and not served.made_for(platform):
                    failed.append((replace(named, platform=platform), f"it is not made for {platform}"))
                    continue
                before = self._lock.get(named.name, platform)
                here = local is not None and platform == named.platform and local.digest == served.digest
                image_id = local.image_id if here and local is not None else ""
                if not here and before is not None and before.digest == served.digest:
                    image_id = before.image_id  # perhaps from another machine
                lock = lock.holding(named.name, platform, Locked(digest=served.digest, image_id=image_id))
        return lock, failed


def as_json(row: Row) -> Mapping[str, object]:
    image = row.image
    return {
        "name": row.name,
        "kind": row.kind,
        "platform": row.platform,
        "used_by": list(row.used_by),
        "present": None if row.kind == "build" else image is not None,
        "locked": row.locked,
        "digest": image.digest or None if image else None,
        "image_id": image.image_id if image else None,
        "size": image.size if image else None,
        "created": image.created or None if image else None,
        "problem": row.problem,
    }
