"""The inputs of a build in the snapshot: context, Dockerfile and base images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from loom.errors import ImageError
from loom.images.dockerfile import Stage, bases_of, inputs_hash, pin_bases, read_ignore, stages_of
from loom.images.reference import parse_reference
from loom.plan import model
from loom.providers.docker.images.named import NamedImages, ResolvedImage
from loom.providers.labels import BUILD_REPOSITORY
from loom.values import Immutable


class BuildInputs(Immutable):
    """All inputs of a build, fixed before it starts."""

    context: Path
    dockerfile: Path
    text: str
    """With base images pinned to the lock's digests."""
    ignore_lines: tuple[str, ...]
    platform: str
    tag: str
    bases: tuple[ResolvedImage, ...]
    known: bool
    """Whether `tag` covers the files; if not, only the builder can detect changes."""
    dockerfile_name: str
    """The Dockerfile's path relative to the repository's root, for people."""


def settle(
    images: NamedImages,
    image: model.Image,
    *,
    workspace: Path,
    identity_of: Callable[[str], str | None],
    ensure: Callable[[str, str], ResolvedImage],
) -> BuildInputs:
    """Read context and Dockerfile, ensure the base images, and name the result."""
    build, context, dockerfile, raw, stages = _read(images, image, workspace)
    platform = images.platform_of(image)
    ignore_lines = read_ignore(context, dockerfile)
    bases: dict[str, ResolvedImage] = {}
    pins = {}
    for name, asked in bases_of(stages, target=build.target):
        base_platform = asked or platform
        reference = parse_reference(name)
        if (exact := build.pins.get(reference.name)) is not None:
            pins[name] = exact
        bases[f"{name} {base_platform}"] = ensure(exact or name, base_platform)
        pinned = images.locked(reference, base_platform)
        # A loaded image has no digest for the builder; use its id, which the lock has.
        digest = pinned.digest if pinned is not None and not exact and not reference.digest else ""
        if digest and images.local(parse_reference(reference.pinned(digest))) is not None:
            pins[name] = reference.pinned(digest)
    files = identity_of(context.relative_to(workspace.resolve()).as_posix())
    total = inputs_hash(
        files=files or "",
        dockerfile=raw,
        ignore=ignore_lines,
        args=build.args,
        target=build.target,
        platform=platform,
        bases={name: found.image_id for name, found in bases.items()},
    )
    text = raw.decode()
    return BuildInputs(
        context=context,
        dockerfile=dockerfile,
        text=pin_bases(text, pins, stages),
        ignore_lines=tuple(ignore_lines),
        platform=platform,
        tag=f"{BUILD_REPOSITORY}:{total}",
        bases=tuple(bases.values()),
        known=files is not None,
        dockerfile_name=dockerfile.relative_to(workspace.resolve()).as_posix(),
    )


def bases_for(images: NamedImages, image: model.Image, workspace: Path) -> tuple[tuple[str, str], ...]:
    """Return name and platform of every image that a build starts from or copies from."""
    build, _, _, _, stages = _read(images, image, workspace)
    platform = images.platform_of(image)
    return tuple((name, asked or platform) for name, asked in bases_of(stages, target=build.target))


def _read(
    images: NamedImages, image: model.Image, workspace: Path
) -> tuple[model.Build, Path, Path, bytes, list[Stage]]:
    build = image.build
    assert build is not None
    context = _resolve_below(workspace, build.context, "context")
    # Accept both conventions: relative to the context and, as in `docker build -f`, to the working directory.
    candidates = [_resolve_below(workspace, f"{build.context}/{build.dockerfile}", "dockerfile")]
    if not candidates[0].is_file():
        candidates.append(_resolve_below(workspace, build.dockerfile, "dockerfile"))
    dockerfile = candidates[-1]
    if not context.is_dir():
        raise ImageError(
            f"the build's context {build.context} is not in the snapshot",
            hint="Files that git ignores are not in it: `loom snapshot` lists what was left out.",
            code="IMAGE_BUILD_INPUT",
        )
    try:
        raw = dockerfile.read_bytes()
        text = raw.decode()
    except FileNotFoundError:
        raise ImageError(
            f"the Dockerfile {build.dockerfile} is not in the snapshot",
            hint="Its path starts at the build's context or at the repository's root; "
            "files that git ignores are not in the snapshot.",
            code="IMAGE_BUILD_INPUT",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ImageError(
            f"the Dockerfile {build.dockerfile} can't be read: {error}", code="IMAGE_BUILD_INPUT"
        ) from error
    predefined = _predefined(images.platform_of(model.Image()), images.platform_of(image))
    stages = stages_of(text, args=build.args, predefined=predefined)
    if build.target is not None and build.target.lower() not in {stage.name for stage in stages}:
        raise ImageError(
            f"{build.dockerfile} has no stage named {build.target}",
            hint=f"Its stages are: {', '.join(stage.name for stage in stages) or 'none'}",
            code="IMAGE_BUILD_INPUT",
        )
    return build, context, dockerfile, raw, stages


def _resolve_below(workspace: Path, relative: str, what: str) -> Path:
    """Resolve a path of the snapshot with its links; ImageError when it is outside."""
    root = workspace.resolve()
    path = (root / relative).resolve()
    if path != root and root not in path.parents:
        raise ImageError(
            f"the build's {what} {relative} leads out of the workspace",
            hint="Builds see the snapshot only: keep the path inside the repository.",
            code="IMAGE_BUILD_INPUT",
        )
    return path


def _predefined(own: str, target: str) -> dict[str, str]:
    """Return the variables that builders define for FROM lines."""
    values: dict[str, str] = {}
    for prefix, platform in (("BUILD", own), ("TARGET", target)):
        system, architecture, *variant = platform.split("/")
        values |= {f"{prefix}PLATFORM": platform, f"{prefix}OS": system, f"{prefix}ARCH": architecture}
        values[f"{prefix}VARIANT"] = variant[0] if variant else ""
    return values
