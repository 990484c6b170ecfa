"""Build images from the snapshot: with BuildKit if installed, else with the engine's classic builder.

The engine's API offers only the classic builder; the program `buildx` reaches BuildKit in the same engine. A result has
the tag `loom-build:<hash of all inputs>`, computed from git's object ids. If the tag is missing, the builder runs and
uses its own cache.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import IO, Any

import docker
import docker.errors
from docker.utils.build import create_archive, exclude_paths
from msgspec.structs import replace

from loom.errors import ImageError
from loom.images.dockerfile import ALWAYS_OUT
from loom.images.reference import parse_reference
from loom.plan import model
from loom.plan.image_lock import shown
from loom.providers.base import ResolveRequest
from loom.providers.docker.engine.client import Traits
from loom.providers.docker.engine.errors import engine_errors, explanation, translated
from loom.providers.docker.engine.long_calls import streamed
from loom.providers.docker.images.build_inputs import BuildInputs, settle
from loom.providers.docker.images.buildx import BuildOutput, build_failed, build_with_buildx, find_buildx
from loom.providers.docker.images.named import NamedImages, ResolvedImage
from loom.providers.labels import BUILD_REPOSITORY

_GET_BUILDX = "Install the buildx plugin (Debian: docker-buildx, Docker's own packages: docker-buildx-plugin)."
# Docker's client always keeps the Dockerfile in the context; here it is added under another name.
_NO_DOCKERFILE = ".loom/no/Dockerfile"


def build_image(
    images: NamedImages,
    image: model.Image,
    request: ResolveRequest,
    *,
    identity_of: Callable[[str], str | None] = lambda _: None,
) -> ResolvedImage:
    """Build the image, or find it from an earlier build with the same inputs."""
    build = image.build
    assert build is not None

    def ensure(name: str, platform: str) -> ResolvedImage:
        return images.ensure(name, image.pull, platform, request, of_build=True)

    inputs = settle(images, image, workspace=request.workspace, identity_of=identity_of, ensure=ensure)
    tag = parse_reference(inputs.tag)
    found = images.local(tag, inputs.platform) if inputs.known else None
    if found is not None:
        request.say(f"nothing that goes into {shown(image)} has changed: using {tag.name}")
        with translated(f"naming the image {tag.name}"):
            # `prune` uses the engine's last tag time.
            images.client.api.tag(found.image_id, BUILD_REPOSITORY, tag.tag, force=True)
    else:
        request.say(f"building {shown(image)} as {tag.name}")
        with engine_errors():
            podman = Traits(images.client).podman
        # Podman implements BuildKit's features itself, except services; buildx would need its own builder in a container.
        buildx = None if podman else find_buildx(images.engine.environ)
        if buildx is not None:
            build_with_buildx(buildx, build, inputs, request, images.engine.environ)
        elif build.secrets:
            raise ImageError(
                f"{inputs.dockerfile_name}: the secrets of a build ({', '.join(secret.name for secret in build.secrets)}) need "
                f"BuildKit, which {'podman has not' if podman else 'was not found'}",
                hint=None if podman else _GET_BUILDX,
                code="IMAGE_NEEDS_BUILDKIT",
            )
        else:
            _build_classic(images, build, inputs, request, podman=podman)
        found = images.local(tag, inputs.platform)
        if found is None:
            raise ImageError(f"{shown(image)} was built, but the engine has no image named {tag.name}")
    if image.name is not None:
        named = parse_reference(image.name)
        with translated(f"naming the image {named.name}"):
            images.client.api.tag(found.image_id, named.repository_name, named.tag or "latest", force=True)
        found = replace(found, name=named.name)
    return replace(found, built=True, bases=inputs.bases)


def _build_classic(
    images: NamedImages, build: model.Build, inputs: BuildInputs, request: ResolveRequest, *, podman: bool
) -> None:
    if not podman:
        request.say("BuildKit (the buildx plugin) was not found: using the engine's classic builder")
    with tempfile.TemporaryFile(prefix="loom-build-") as archive:
        try:
            name = _write_context(archive, inputs)
        except OSError as error:
            raise ImageError(
                f"the build's context can't be read: {error.__cause__ or error}",
                hint="Let it be read, or list it in .dockerignore.",
                code="IMAGE_BUILD_INPUT",
            ) from error

        def ask(api: Any) -> Any:
            return api.build(
                fileobj=archive,
                custom_context=True,
                dockerfile=name,
                tag=inputs.tag,
                buildargs={**Traits(images.client).proxies, **build.args},
                target=build.target,
                platform=inputs.platform,
                rm=True,
                forcerm=True,
                decode=True,
                timeout=None,  # no limit: the stream's reader has one
            )

        def failed(instruction: str | None, words: str) -> ImageError:
            error = build_failed(inputs.dockerfile_name, None, instruction, words)
            if not podman:
                error.hint = f"{error.hint}\nThe file may need BuildKit, which was not found. {_GET_BUILDX}"
            return error

        tail = BuildOutput(request.on_output)
        try:
            for entry in streamed(images.engine, ask, request.cancel, what=f"building {inputs.tag}"):
                if "error" in entry:
                    _, instruction, _ = tail.failure()
                    raise failed(instruction, str(entry["error"]))
                if entry.get("stream"):
                    tail.feed(str(entry["stream"]).encode())
        except docker.errors.APIError as error:
            raise failed(None, explanation(error)) from error
        finally:
            tail.end()


def _write_context(archive: IO[bytes], inputs: BuildInputs) -> str:
    """Write the context as a tar file; return the name of its Dockerfile.

    The Dockerfile gets another name if the context's differs. The engine reads the file, then applies `.dockerignore`,
    so `COPY . .` copies the same files as usual.
    """
    # Ignoring files is the client's task; use Docker's own implementation.
    lines = [line.strip() for line in (*inputs.ignore_lines, *ALWAYS_OUT)]
    rules = [line for line in lines if line and not line.startswith("#")]
    kept = exclude_paths(str(inputs.context), rules, dockerfile=_NO_DOCKERFILE)
    there = inputs.context in inputs.dockerfile.parents and inputs.dockerfile.read_bytes() == inputs.text.encode()
    own = inputs.dockerfile.relative_to(inputs.context).as_posix() if there else None
    added: list[tuple[str, str]] = []
    if own is None or own not in kept:
        own = ".loom.Dockerfile"
        while (inputs.context / own).exists():
            own += "_"
        ignore_file = inputs.context / ".dockerignore"
        before = ignore_file.read_text(errors="replace") if ignore_file.is_file() else ".dockerignore"
        added = [(own, inputs.text), (".dockerignore", f"{before}\n{own}\n")]
    create_archive(str(inputs.context), files=sorted(kept), fileobj=archive, extra_files=added)
    return own
