"""Building an image from the snapshot: with BuildKit where it can be had, else with the engine's classic builder.

The engine's API builds with the classic builder only; BuildKit is reached through the `buildx` program, which speaks to
the same engine. What a build made is found again under the tag `loom-build:<hash of all files and settings>`, the files by
what git calls them. Where that is not there, the builder is asked, and its own cache decides what has to be done.
"""

from __future__ import annotations

import fcntl
import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import docker
import docker.errors
from docker.utils.build import exclude_paths
from msgspec import Struct
from msgspec.structs import replace

from loom.cancel import Cancel
from loom.errors import ImageError
from loom.images.dockerfile import (
    ALWAYS_OUT,
    Stage,
    bases_of,
    context_files,
    inputs_hash,
    needs_buildkit,
    pin_bases,
    read_ignore,
    stages_of,
)
from loom.images.reference import parse_reference
from loom.plan import model
from loom.plan.image_lock import shown
from loom.providers.docker.capabilities import Traits
from loom.providers.docker.cleanup import untagged
from loom.providers.docker.endpoint import endpoint_of
from loom.providers.docker.errors import engine_errors, explanation
from loom.providers.docker.labels import BUILD_REPOSITORY
from loom.providers.docker.long_calls import in_background, say
from loom.status import OnOutput
from loom.util import processes

if TYPE_CHECKING:
    from loom.providers.docker.images import Images, ResolvedImage

_GET_BUILDX = "Install the buildx plugin (Debian: docker-buildx, Docker's own packages: docker-buildx-plugin)."
_PLUGIN_FOLDERS = (
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)
_TERMINATE_GRACE_S = 5.0
_NO_DOCKERFILE = ".loom/no/Dockerfile"
# Docker's client keeps the Dockerfile in whatever the rules say; here that is done by name.
_TAGS = 20
"""How many states of a project's files one image is remembered for."""


class BuildInputs(Struct, frozen=True, kw_only=True):
    """Everything that decides what a build makes, settled before anything is built."""

    context: Path
    dockerfile: Path
    text: str
    """With its bases pinned as the lock says."""
    ignore_lines: tuple[str, ...]
    platform: str
    tag: str
    bases: tuple[ResolvedImage, ...]
    known: bool
    """Whether `tag` says what files go in: else the builder alone knows whether anything has changed."""
    place: str
    """The Dockerfile, for people: from the repository's root."""


def build_image(
    images: Images,
    image: model.Image,
    *,
    environ: Mapping[str, str],
    workspace: Path,
    on_output: OnOutput,
    cancel: Cancel,
    secrets: Mapping[str, bytes],
) -> ResolvedImage:
    """The built image, from this build or an earlier one with the same inputs. `secrets`: values, of which the build
    mounts those that it names."""
    build = image.build
    assert build is not None

    def have(name: str, platform: str) -> ResolvedImage:
        return images.have(name, image.pull, platform, on_output=on_output, cancel=cancel)

    inputs = settle(images, image, workspace=workspace, have=have)
    tag = parse_reference(inputs.tag)
    had = images.local(tag, inputs.platform) if inputs.known else None
    if had is not None:
        say(on_output, f"nothing that goes into {shown(image)} has changed: using {tag.name}")
        with engine_errors():
            # The engine notes when an image was last tagged: `prune` goes by that.
            images.client.api.tag(had.image_id, BUILD_REPOSITORY, tag.tag, force=True)
    else:
        say(on_output, f"building {shown(image)} as {tag.name}")
        # Podman builds by itself what BuildKit does; buildx would first want a builder of its own in a container.
        buildx = None if _is_podman(images) else find_buildx(environ)
        values = {secret.name: secrets[secret.name] for secret in build.secrets if secret.name in secrets}
        if buildx is not None:
            _build_with_buildx(
                buildx, build, inputs, environ=environ, on_output=on_output, cancel=cancel, secrets=values
            )
        elif build.secrets:
            raise ImageError(
                f"{inputs.place}: the secrets of a build ({', '.join(secret.name for secret in build.secrets)}) need "
                f"BuildKit, which {'podman has not' if _is_podman(images) else 'was not found'}",
                hint=None if _is_podman(images) else _GET_BUILDX,
                code="IMAGE_NEEDS_BUILDKIT",
            )
        else:
            _build_classic(images, build, inputs, on_output=on_output, cancel=cancel)
        had = images.local(tag, inputs.platform)
        if had is None:
            raise ImageError(f"{shown(image)} was built, and the engine does not have it as {tag.name}")
        _forget_tags(images, had, tag.name)
    if image.name is not None:
        named = parse_reference(image.name)
        with engine_errors():
            images.client.api.tag(had.image_id, named.repository_name, named.tag or "latest", force=True)
        had = replace(had, name=named.name)
    return replace(had, built=True, bases=inputs.bases)


def _forget_tags(images: Images, image: ResolvedImage, current: str) -> None:
    """Each change of the project's files that makes no other image gives it one more tag: not without end."""
    with engine_errors():
        names = images.client.api.inspect_image(image.image_id)["RepoTags"] or ()  # type: ignore[no-untyped-call]
    old = [name for name in names if name.startswith(f"{BUILD_REPOSITORY}:") and name != current]
    if len(old) >= _TAGS:
        list(untagged(images.client, old))


def settle(
    images: Images, image: model.Image, *, workspace: Path, have: Callable[[str, str], ResolvedImage]
) -> BuildInputs:
    """Read the context and the Dockerfile, have the images that the build starts from, and name the result."""
    build, context, dockerfile, raw, stages, predefined = _read(images, image, workspace)
    platform = images.platform_of(image)
    ignore_lines = read_ignore(context, dockerfile)
    bases: dict[str, ResolvedImage] = {}
    pins = {}
    for base in bases_of(stages, target=build.target):
        base_platform = base.platform or platform
        had = have(base.name, base_platform)
        bases[f"{base.name} {base_platform}"] = had
        reference = parse_reference(base.name)
        pinned = images.locked(reference, base_platform)
        # What came out of an archive has no digest by which a builder could find it here; its id is the locked one.
        digest = pinned.digest if pinned is not None and not reference.digest else ""
        if digest and images.local(parse_reference(reference.pinned(digest))) is not None:
            pins[base.name] = reference.pinned(digest)
    files = images.identity_of(context.relative_to(workspace.resolve()).as_posix())
    total = inputs_hash(
        files=files or "",
        dockerfile=raw,
        ignore=ignore_lines,
        args=build.args,
        target=build.target,
        platform=platform,
        bases={name: had.image_id for name, had in bases.items()},
    )
    text = raw.decode()
    return BuildInputs(
        context=context,
        dockerfile=dockerfile,
        text=pin_bases(text, pins, args=build.args, predefined=predefined) if pins else text,
        ignore_lines=tuple(ignore_lines),
        platform=platform,
        tag=f"{BUILD_REPOSITORY}:{total}",
        bases=tuple(bases.values()),
        known=files is not None,
        place=dockerfile.relative_to(workspace.resolve()).as_posix(),
    )


def bases_for(images: Images, image: model.Image, workspace: Path) -> tuple[tuple[str, str], ...]:
    """Name and platform of every image that a build starts from or copies from."""
    build, _, _, _, stages, _ = _read(images, image, workspace)
    platform = images.platform_of(image)
    return tuple((base.name, base.platform or platform) for base in bases_of(stages, target=build.target))


def _read(
    images: Images, image: model.Image, workspace: Path
) -> tuple[model.Build, Path, Path, bytes, list[Stage], dict[str, str]]:
    build = image.build
    assert build is not None
    context = _inside(workspace, build.context, "context")
    # Two customs are about: relative to the context, and (`docker build -f`) to where one stands. Both are understood.
    candidates = [_inside(workspace, f"{build.context}/{build.dockerfile}", "dockerfile")]
    if not candidates[0].is_file():
        candidates.append(_inside(workspace, build.dockerfile, "dockerfile"))
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
    return build, context, dockerfile, raw, stages, predefined


def _inside(workspace: Path, relative: str, what: str) -> Path:
    """A path of the snapshot, links followed; ImageError when it leads out of it."""
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
    """The arguments that builders define themselves and that FROM lines may use."""
    values: dict[str, str] = {}
    for prefix, platform in (("BUILD", own), ("TARGET", target)):
        system, architecture, *variant = platform.split("/")
        values |= {f"{prefix}PLATFORM": platform, f"{prefix}OS": system, f"{prefix}ARCH": architecture}
        values[f"{prefix}VARIANT"] = variant[0] if variant else ""
    return values


def find_buildx(environ: Mapping[str, str]) -> list[str] | None:
    """The command that runs BuildKit builds, if this machine has one; `LOOM_BUILDKIT=0` or `DOCKER_BUILDKIT=0` hides it."""
    if "0" in (environ.get("LOOM_BUILDKIT"), environ.get("DOCKER_BUILDKIT")):
        return None
    home = environ.get("DOCKER_CONFIG") or f"{environ.get('HOME', '')}/.docker"
    for folder in (f"{home}/cli-plugins", *_PLUGIN_FOLDERS):
        program = f"{folder}/docker-buildx"
        if os.access(program, os.X_OK):
            # The plugin runs on its own as well, so that no `docker` program is needed.
            return [program]
    program = shutil.which("docker-buildx", path=environ.get("PATH")) or ""
    return [program] if program else None


def _build_with_buildx(
    buildx: list[str],
    build: model.Build,
    inputs: BuildInputs,
    *,
    environ: Mapping[str, str],
    on_output: OnOutput,
    cancel: Cancel,
    secrets: Mapping[str, bytes],
) -> None:
    with tempfile.TemporaryDirectory(prefix="loom-build-") as folder, _in_memory(secrets) as descriptors:
        # The Dockerfile goes in from here, beside ignore rules that also leave loom's own record out: the builder looks
        # for `<Dockerfile>.dockerignore` first, and the workspace stays untouched.
        dockerfile = Path(folder, inputs.dockerfile.name)
        dockerfile.write_text(inputs.text)
        rules = "\n".join([*inputs.ignore_lines, *ALWAYS_OUT]) + "\n"
        dockerfile.with_name(f"{dockerfile.name}.dockerignore").write_text(rules, errors="surrogateescape")
        command = [*buildx, "build", "--builder", "default", "--progress", "plain", "--provenance", "false"]
        command += ["--file", str(dockerfile), "--tag", inputs.tag, "--platform", inputs.platform]
        if build.target is not None:
            command += ["--target", build.target]
        for name, value in build.args.items():
            command += ["--build-arg", f"{name}={value}"]
        for name, descriptor in descriptors.items():
            command += ["--secret", f"id={name},src=/proc/self/fd/{descriptor}"]
        tail = _Tail(on_output)
        code = _run(
            [*command, str(inputs.context)],
            scratch=folder,
            descriptors=tuple(descriptors.values()),
            environ=_buildx_environment(environ),
            on_bytes=tail.feed,
            cancel=cancel,
        )
        tail.end()
        if cancel.requested:
            raise ImageError(f"canceled while building {inputs.tag}", code="CANCELED")
        if code != 0:
            raise _build_failed(inputs.place, *tail.failure())


@contextmanager
def _in_memory(secrets: Mapping[str, bytes]) -> Iterator[dict[str, int]]:
    """Each value as a file that no disk has, no other user can open, and that is gone with the last process that has it."""
    descriptors: dict[str, int] = {}
    try:
        for name, value in secrets.items():
            made = os.memfd_create("loom-secret", os.MFD_CLOEXEC)
            # Above the numbers that a shell may use for itself.
            descriptors[name] = fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, 10)
            with os.fdopen(made, "wb") as file:
                file.write(value)
        yield descriptors
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)


def _buildx_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The builder `default` is then the engine that loom talks to, also when a Docker context names it."""
    endpoint = endpoint_of(environ)
    values = {**environ, "DOCKER_HOST": endpoint.url, "NO_COLOR": "1", "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    values.pop("DOCKER_CONTEXT", None)
    if endpoint.ca_cert is not None:
        values |= {
            "DOCKER_CERT_PATH": str(endpoint.ca_cert.parent),
            "DOCKER_TLS_VERIFY": "1" if endpoint.verify else "",
        }
    return values


# Ends the command when its own input ends, which it does when loom is gone; a silent one would go on building else. Then
# nobody else removes what loom had made for it ($0) either.
_WITH_LOOM = """
exec 3<&0
"$@" </dev/null 3<&- &
command=$!
{ read -r line <&3; kill -TERM "$command"; } >/dev/null 2>&1 &
watcher=$!
wait "$command"
code=$?
kill "$watcher" 2>/dev/null
rm -rf "$0"
exit "$code"
"""


def _run(
    command: list[str],
    *,
    scratch: str,
    descriptors: tuple[int, ...],
    environ: Mapping[str, str],
    on_bytes: Any,
    cancel: Cancel,
) -> int:
    """The exit code. The directory `scratch` is gone afterwards, also when loom is killed meanwhile; the command has
    `descriptors` open."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", _WITH_LOOM, scratch, *command],
        env=dict(environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=descriptors,
    )
    end = partial(processes.end, process, grace_s=_TERMINATE_GRACE_S, group=True)

    def end_aside() -> None:
        # Runs in the thread that asks for the cancel, which must not wait for us.
        threading.Thread(target=end, name="loom-build-end", daemon=True).start()

    unregister = cancel.on_request(end_aside)
    try:
        assert process.stdout is not None
        while chunk := os.read(process.stdout.fileno(), 65536):
            on_bytes(chunk)
        return process.wait()  # no limit: a cancel kills it
    except BaseException:
        processes.end(process, group=True)
        raise
    finally:
        unregister()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


class _Tail:
    """Hands a builder's output on and remembers its last lines, which say what went wrong."""

    def __init__(self, on_output: OnOutput) -> None:
        self._on_output = on_output
        self._half = b""
        self._last = b""

    def feed(self, chunk: bytes) -> None:
        # Whole lines, without the empty ones between a builder's paragraphs.
        *lines, self._half = (self._half + chunk).split(b"\n")
        said = b"".join(line + b"\n" for line in lines if line.strip())
        if said:
            self._on_output("stdout", said)
        self._last = (self._last + chunk)[-4096:]

    def end(self) -> None:
        if self._half.strip():
            self._on_output("stdout", self._half + b"\n")

    def failure(self) -> tuple[int | None, str | None, str]:
        """The Dockerfile's line and instruction that failed, as far as the builder says, and its last words."""
        return what_failed(self._last.decode(errors="replace"))


def what_failed(said: str) -> tuple[int | None, str | None, str]:
    """Line, instruction and last words in the end of what a builder printed (BuildKit's or the classic one's)."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("ERROR: ", "error: "))]
    words = (errors or lines or ["it said nothing"])[-1].removeprefix("ERROR: ").removeprefix("failed to solve: ")
    if marked := re.findall(r"^ *(\d+) \| >>> (.*)$", said, re.MULTILINE):
        number, instruction = marked[0]
        return int(number), instruction.strip(), words
    steps = re.findall(r"^Step \d+/\d+ : (.*)$", said, re.MULTILINE)
    return None, steps[-1].strip() if steps else None, words


def _build_failed(place: str, line: int | None, instruction: str | None, words: str) -> ImageError:
    place += f":{line}" if line is not None else ""
    at = f" at `{instruction}`" if instruction else ""
    hint = "Its whole output is in the section image_build."
    if "docker/dockerfile" in words:
        hint = "Its `# syntax=` line asks a registry for the builder's front end. Most builders' own will do: leave it out."
    return ImageError(f"{place}: the build failed{at}: {words}", hint=hint, code="IMAGE_BUILD_FAILED")


def _build_classic(
    images: Images, build: model.Build, inputs: BuildInputs, *, on_output: OnOutput, cancel: Cancel
) -> None:
    podman = _is_podman(images)
    modern = needs_buildkit(inputs.text)
    if modern is not None and not podman:
        number, feature = modern
        raise ImageError(
            f"{inputs.place}:{number}: {feature} needs BuildKit, and there is only the engine's classic builder",
            hint=_GET_BUILDX,
            code="IMAGE_NEEDS_BUILDKIT",
        )
    if not podman:
        say(on_output, "BuildKit (the buildx plugin) was not found: using the engine's classic builder")
    with tempfile.TemporaryFile(prefix="loom-build-") as archive, images.line() as line:
        try:
            name = _write_context(archive, inputs)
        except OSError as error:
            raise ImageError(
                f"the build's context can't be read: {error.filename}: {error.strerror}",
                hint="Let it be read, or list it in .dockerignore.",
                code="IMAGE_BUILD_INPUT",
            ) from error
        archive.seek(0)

        def lines() -> Iterator[dict[str, Any]]:
            with engine_errors():
                yield from line.client.api.build(
                    fileobj=archive,
                    custom_context=True,
                    dockerfile=name,
                    tag=inputs.tag,
                    buildargs=dict(build.args),
                    target=build.target,
                    platform=inputs.platform,
                    rm=True,
                    forcerm=True,
                    decode=True,
                    timeout=None,  # no limit: the reader of the stream has one
                )

        tail = _Tail(on_output)
        try:
            for entry in in_background(lines(), cancel, what=f"building {inputs.tag}", cut=line.cut):
                if "error" in entry:
                    _, instruction, _ = tail.failure()
                    raise _build_failed(inputs.place, None, instruction, str(entry["error"]))
                if entry.get("stream"):
                    tail.feed(str(entry["stream"]).encode())
        except docker.errors.APIError as error:
            raise _build_failed(inputs.place, None, None, explanation(error)) from error
        finally:
            tail.end()


def _write_context(archive: IO[bytes], inputs: BuildInputs) -> str:
    """The context as a tar file; returns the name of the Dockerfile in it.

    The Dockerfile goes in under a name of its own when the context does not hold it as it is to be built. The engine
    takes what `.dockerignore` names out again after it has read it, so that `COPY . .` sees what it would see anyway.
    """
    # The engine takes what it is sent: leaving files out is the client's part here, and this is Docker's own client.
    lines = [line.strip() for line in (*inputs.ignore_lines, *ALWAYS_OUT)]
    rules = [line for line in lines if line and not line.startswith("#")]
    kept = exclude_paths(str(inputs.context), rules, dockerfile=_NO_DOCKERFILE)
    own = inputs.dockerfile.relative_to(inputs.context).as_posix() if _holds(inputs, kept) else None
    added: dict[str, bytes] = {}
    if own is None:
        own = ".loom.Dockerfile"
        while (inputs.context / own).exists():
            own += "_"
        theirs = inputs.context / ".dockerignore"
        before = theirs.read_bytes().rstrip(b"\n") + b"\n" if theirs.is_file() else b".dockerignore\n"
        added = {own: inputs.text.encode(), ".dockerignore": before + own.encode() + b"\n"}
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, content in added.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        for path, _ in context_files(inputs.context):
            if path in kept and path not in added:
                _add(tar, inputs.context / path, path)
    return own


def _holds(inputs: BuildInputs, kept: Container[str]) -> bool:
    if inputs.context not in inputs.dockerfile.parents:
        return False
    path = inputs.dockerfile.relative_to(inputs.context).as_posix()
    return path in kept and inputs.dockerfile.read_bytes() == inputs.text.encode()


def _add(tar: tarfile.TarFile, source: Path, path: str) -> None:
    try:
        entry = tar.gettarinfo(source, arcname=path)
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        if entry.type == tarfile.LNKTYPE:
            # The other name of a hard link may be left out: each name gets the bytes.
            entry.type, entry.linkname, entry.size = tarfile.REGTYPE, "", source.stat().st_size
        if entry.isreg():
            with source.open("rb") as content:
                tar.addfile(entry, content)
        else:
            tar.addfile(entry)
    except FileNotFoundError:
        pass  # it vanished since the folder was listed


def _is_podman(images: Images) -> bool:
    """Podman's build API understands everything that BuildKit does which needs no service of BuildKit's."""
    with engine_errors():
        return Traits(images.client).podman
