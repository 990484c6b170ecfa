"""The lock file, and which images a plan uses.

`.loom/images.lock` pins every image of a workflow: for each name and platform the registry's digest and the engine's id
of the image. Both are kept because either may be missing: an image that was imported from a file has no digest, and an
engine with another kind of image store has other ids.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from loom.errors import ImageError, RequestError
from loom.images.reference import DIGEST, normal_platform, parse_reference, short
from loom.plan.model import Image, Plan
from loom.util import atomic, jsons
from loom.util.paths import leads_out

LOCK_PATH = ".loom/images.lock"
LOCK_SCHEMA = "loom.images.lock.v1"


class Locked(Struct, frozen=True, kw_only=True):
    """What one name stands for on one platform; at least one of the two is there."""

    digest: str = ""
    image_id: str = ""


class ImageLock(Struct, frozen=True, kw_only=True):
    """The content of a lock file: name (with its tag) to platform to what it stands for."""

    images: Mapping[str, Mapping[str, Locked]] = field(default_factory=dict)

    def get(self, name: str, platform: str) -> Locked | None:
        """`name` in any spelling of the reference."""
        return self.images.get(parse_reference(name).name, {}).get(normal_platform(platform))

    def holding(self, name: str, platform: str, locked: Locked) -> ImageLock:
        """The lock with one entry set."""
        key = parse_reference(name).name
        entries = {**self.images.get(key, {}), normal_platform(platform): locked}
        return ImageLock(images={**self.images, key: entries})

    def only(self, names: set[str]) -> ImageLock:
        """The lock without entries that nothing uses any more."""
        keep = {parse_reference(name).name for name in names}
        return ImageLock(images={name: entries for name, entries in self.images.items() if name in keep})

    def encode(self) -> bytes:
        """Sorted and indented: made to be committed and reviewed."""
        images = {
            name: {
                platform: {key: value for key, value in (("digest", to.digest), ("image_id", to.image_id)) if value}
                for platform, to in entries.items()
            }
            for name, entries in self.images.items()
        }
        shape = {"schema_version": LOCK_SCHEMA, "images": images}
        return jsons.encode_file(shape, sort=True)


def decode_lock(data: bytes, *, path: str = LOCK_PATH) -> ImageLock:
    """RequestError for anything but a lock file of this version; `path` names the file in it."""

    def refuse(reason: str) -> RequestError:
        return RequestError(
            f"{path}: {reason}",
            hint="Write it anew with `loom images lock`, or take the committed one back.",
            code="IMAGES_LOCK_INVALID",
        )

    try:
        shape = json.loads(data)  # which tells the line, for a file that people merge
    except json.JSONDecodeError as error:
        raise refuse(f"line {error.lineno} is not JSON: {error.msg}") from None
    except (ValueError, RecursionError):
        raise refuse("it is not JSON") from None
    if not isinstance(shape, dict) or shape.get("schema_version") != LOCK_SCHEMA:
        found = shape.get("schema_version") if isinstance(shape, dict) else None
        raise refuse(f"expected schema_version {LOCK_SCHEMA}, found {found!r}")
    images = shape.get("images")
    if not isinstance(images, dict):
        raise refuse("/images: expected an object")
    locked: dict[str, dict[str, Locked]] = {}
    for name, entries in images.items():
        if not isinstance(entries, dict):
            raise refuse(f"/images/{name}: expected an object of platforms")
        try:
            key = parse_reference(name).name
        except RequestError as error:
            raise refuse(f"/images: {error.message}") from None
        for platform, entry in entries.items():
            if not _is_locked(entry):
                raise refuse(f"/images/{name}/{platform}: expected a digest, an image_id or both, each sha256:<hex>")
            locked.setdefault(key, {})[normal_platform(platform)] = Locked(**entry)
    return ImageLock(images=locked)


def _is_locked(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and bool(entry)
        and set(entry) <= {"digest", "image_id"}
        and all(isinstance(value, str) and DIGEST.fullmatch(value) for value in entry.values())
    )


def load_lock(path: Path) -> ImageLock | None:
    """None when there is no lock file. RequestError when there is one that can't be read as such."""
    if (elsewhere := leads_out(path, path.parents[1])) is not None:
        raise RequestError(f"{path} leads out of the repository, to {elsewhere}", code="IMAGES_LOCK_INVALID")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RequestError(f"{path}: {error.strerror}", code="IMAGES_LOCK_INVALID") from error
    return decode_lock(data, path=str(path))


def save_lock(path: Path, lock: ImageLock) -> None:
    """Replace the lock file. ImageError when it can't be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(path, lock.encode())
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}: the lock file could not be written") from error


class ImageUse(Struct, frozen=True, kw_only=True):
    """One image of a plan and what it is used for: job ids, and `job/service` for services."""

    image: Image
    used_by: tuple[str, ...]


def images_of(plan: Plan) -> tuple[ImageUse, ...]:
    """Every image of the plan once, in the order in which the plan meets them. Pull policy, entrypoint and user do not
    make a different image."""
    uses: dict[tuple[object, ...], tuple[Image, list[str]]] = {}
    for job in plan.jobs:
        wanted = [(job.id, job.image)] if job.image is not None else []
        wanted += [(f"{job.id}/{service.name}", service.image) for service in job.services]
        for user, image in wanted:
            _, users = uses.setdefault(identity(image), (image, []))
            users.append(user)
    return tuple(ImageUse(image=image, used_by=tuple(users)) for image, users in uses.values())


def identity(image: Image) -> tuple[object, ...]:
    """Equal for two images that are the same thing to have (how they are then run does not matter)."""
    build = image.build
    inputs = build and (
        build.context,
        build.dockerfile,
        build.target,
        tuple(sorted(build.args.items())),
        tuple((secret.name, secret.ref) for secret in build.secrets),
    )
    return (image.name, inputs, image.platform and normal_platform(image.platform))


def shown(image: Image) -> str:
    """What to call an image on the screen, also one that has no name yet."""
    if image.name is not None:
        return image.name
    return (
        posixpath.normpath(f"{image.build.context}/{image.build.dockerfile}")
        if image.build
        else "an image without a name"
    )


class Verdict(StrEnum):
    """What `loom images verify` says of one image."""

    SAME = "same"
    DIFFERS = "differs"
    ABSENT = "absent"
    """Not on this engine: a run would have what the registry (or the lock) says."""
    UNKNOWN = "unknown"


class Facts(Struct, frozen=True, kw_only=True):
    """What the three places know of one image; "" for what a place does not know. `gone`: the registry says that it
    has no such image."""

    local_digest: str = ""
    local_id: str = ""
    served: str = ""
    gone: bool = False
    locked: Locked | None = None


def verdict(facts: Facts) -> tuple[Verdict, str]:
    """The verdict and its reason. Whatever is known must agree, and enough must be known to say so."""
    locked = facts.locked or Locked()
    local_digest = facts.local_digest
    if not local_digest and facts.local_id and facts.local_id == locked.image_id:
        # An imported image has lost its digest; the lock knows which one its content has.
        local_digest = locked.digest
    if facts.gone and (local_digest or locked.digest):
        return Verdict.DIFFERS, "the registry has no such image any more"
    if locked.digest and facts.served and locked.digest != facts.served:
        return Verdict.DIFFERS, f"the registry serves {short(facts.served)}, the lock says {short(locked.digest)}"
    if facts.local_id:
        if locked.digest and local_digest and local_digest != locked.digest:
            return Verdict.DIFFERS, f"here is {short(local_digest)}, the lock says {short(locked.digest)}"
        if not locked.digest and locked.image_id and locked.image_id != facts.local_id:
            return Verdict.DIFFERS, f"here is {short(facts.local_id)}, the lock says {short(locked.image_id)}"
        if facts.served and local_digest and local_digest != facts.served:
            return Verdict.DIFFERS, f"here is {short(local_digest)}, the registry serves {short(facts.served)}"
    if not facts.served:
        if facts.local_id and locked.image_id == facts.local_id and not locked.digest:
            return Verdict.SAME, "as locked; it is from no registry"
        return Verdict.UNKNOWN, "what the registry serves could not be had"
    if not facts.local_id:
        return Verdict.ABSENT, f"not here; the registry serves {short(facts.served)}"
    if not local_digest:
        return Verdict.UNKNOWN, "the image here is from no registry (built or imported), and the lock does not know it"
    return Verdict.SAME, f"{short(facts.served)} everywhere"
