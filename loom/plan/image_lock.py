"""The lock file, and the images of a plan.

`.loom/images.lock` pins every image of a workflow: the registry's digest and the engine's image id, by name and
platform. Both are kept because either may be missing: a loaded image has no digest, and engines with another image
store use other ids.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from loom.errors import ImageError, RequestError
from loom.images.reference import DIGEST, normal_platform, parse_reference
from loom.plan.late import Action
from loom.plan.model import Build, Image, Plan
from loom.util import atomic, jsons, typed
from loom.util.untrusted_files import open_inside
from loom.values import Immutable

LOCK_PATH = ".loom/images.lock"


Digest = Annotated[str, Meta(pattern=rf"^{DIGEST.pattern}\Z")]


class Locked(Immutable, omit_defaults=True, forbid_unknown_fields=True):
    """The pin of one name on one platform; at least one field is set."""

    digest: Digest = ""
    image_id: Digest = ""


class ImageLock(Immutable):
    """The content of a lock file: name (with tag) to platform to pin."""

    images: Mapping[str, Mapping[str, Locked]] = {}

    def get(self, name: str, platform: str) -> Locked | None:
        """`name` in any spelling of the reference."""
        return self.images.get(parse_reference(name).name, {}).get(normal_platform(platform))

    def holding(self, name: str, platform: str, locked: Locked) -> ImageLock:
        key = parse_reference(name).name
        entries = {**self.images.get(key, {}), normal_platform(platform): locked}
        return ImageLock(images={**self.images, key: entries})

    def only(self, names: set[str]) -> ImageLock:
        """Return the lock without unused entries."""
        keep = {parse_reference(name).name for name in names}
        return ImageLock(images={name: entries for name, entries in self.images.items() if name in keep})

    def encode(self) -> bytes:
        """Serialise the lock, sorted and indented for review."""
        return jsons.encode_file(_File(images=self.images, schema_version="loom.images.lock.v1"), sort=True)


class _File(Immutable):
    images: Mapping[str, Mapping[str, Locked]]
    schema_version: Literal["loom.images.lock.v1"]


def decode_lock(data: bytes, *, path: str) -> ImageLock:
    """Parse a lock file. RequestError for any other content; `path` names the file in the message."""
    locked: dict[str, dict[str, Locked]] = {}
    try:
        for name, entries in typed.decode(data, _File).images.items():
            for platform, entry in entries.items():
                if entry == Locked():
                    raise ValueError(f"{name} has neither a digest nor an image_id for {platform}")
                locked.setdefault(parse_reference(name).name, {})[normal_platform(platform)] = entry
    except (ValueError, RecursionError, RequestError) as error:
        raise RequestError(
            f"{path}: {error.message if isinstance(error, RequestError) else error}",
            hint="Regenerate it with `loom images lock`, or restore the committed file.",
            code="IMAGES_LOCK_INVALID",
        ) from None
    return ImageLock(images=locked)


def load_lock(path: Path) -> ImageLock | None:
    """Read the lock file; None when it does not exist. RequestError for an invalid one."""
    try:
        with open_inside(path, path.parents[1]) as file:
            data = file.read()
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


class ImageUse(Immutable):
    """One image of a plan and its users: job ids, and `job/service` or `job/action`."""

    image: Image
    root: str
    """The directory of its build's inputs; empty: the checkout."""
    used_by: tuple[str, ...]


def images_of(plan: Plan) -> tuple[ImageUse, ...]:
    """Return every distinct image of the plan, in plan order. Pull policy, entrypoint and user do not distinguish images."""
    uses: dict[tuple[object, ...], tuple[Image, str, list[str]]] = {}
    for job in plan.jobs:
        wanted = [(job.id, job.image, "")] if job.image is not None else []
        wanted += [(f"{job.id}/{service.name}", service.image, "") for service in job.services]
        for action in (step.action for step in job.steps):
            if action is not None and action.image:
                wanted.append((f"{job.id}/{action.uses}", image_of(action), action.directory))
        for user, image, root in wanted:
            *_, users = uses.setdefault((*identity(image), root), (image, root, []))
            users.append(user)
    return tuple(ImageUse(image=image, root=root, used_by=tuple(users)) for image, root, users in uses.values())


def image_of(action: Action) -> Image:
    """Return the image of an action: a name, or what its Dockerfile builds."""
    if action.image.startswith("docker://"):
        return Image(name=action.image.removeprefix("docker://"))
    file = posixpath.normpath(posixpath.join(action.path, action.image))
    return Image(build=Build(context=posixpath.dirname(file) or ".", dockerfile=file))


def identity(image: Image) -> tuple[object, ...]:
    """Identify an image by content; run options do not count."""
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
    """Name an image for the screen, also an unnamed one."""
    if image.name is not None:
        return image.name
    return posixpath.normpath(f"{image.build.context}/{image.build.dockerfile}") if image.build else "an unnamed image"
