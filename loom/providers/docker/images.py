"""Having an image: from the engine's own store, from its registry, or built from the snapshot.

One `Images` serves one run. Whatever its jobs ask for is had once: two jobs that want the same image at the same time
wait for one pull, and a later job gets what the first one got, even if the registry moved on in between.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from loom.providers.docker.client import explanation
from loom.providers.docker.credentials import Credentials, credentials_for
from loom.providers.docker.long_calls import Line, canceled, engine_errors, in_background, say
from loom.status import OnOutput
from loom.util.units import rough_size

ClientFactory = Callable[[], "docker.DockerClient"]

_ATTEMPTS = 4
_FIRST_PAUSE_S = 0.5
_PROGRESS_EVERY_S = 5.0


class ResolvedImage(Struct, frozen=True, kw_only=True):
    """An image that is there. `digest` is the registry's ("" for an image that no registry knows), `user` the image's."""

    name: str
    image_id: str
    digest: str
    size: int
    user: str
    platform: str
    built: bool = False
    created: str = ""
    """When the image was made, as the engine says it (RFC 3339)."""
    bases: tuple[ResolvedImage, ...] = ()
    """What it was built from, where this run built it or found it built."""


class Served(Struct, frozen=True, kw_only=True):
    """What a registry answers for a name. `platforms` is empty when it does not say."""

    digest: str
    platforms: tuple[str, ...] = ()

    def made_for(self, platform: str) -> bool:
        return any(_same_platform(one, platform) for one in self.platforms)


class Images:
    """Thread-safe. Nothing is asked of the engine before the first `resolve`."""

    def __init__(
        self,
        client_factory: ClientFactory,
        *,
        environ: Mapping[str, str],
        lock: ImageLock | None = None,
        frozen: bool = False,
        shared: ClientFactory | None = None,
    ) -> None:
        """`client_factory` makes a new connection; `shared` gives a connection that others use too, and close."""
        self._client_factory = client_factory
        self._shared = shared
        self._environ = environ
        self._lock = lock
        self._frozen = frozen
        self._guard = threading.Lock()
        self._had: dict[object, Future[ResolvedImage]] = {}
        self._inputs: dict[tuple[str, str], Path] = {}
        self.identity_of: Callable[[str], str | None] = lambda folder: None
        """Names what a folder of the workspace holds, for builds; None where nobody can tell without reading it."""
        self._client: docker.DockerClient | None = None
        self._engine_platform: str | None = None

    @property
    def client(self) -> docker.DockerClient:
        if self._shared is not None:
            return self._shared()
        with self._guard:
            if self._client is None:
                self._client = self._client_factory()
            return self._client

    def close(self) -> None:
        """Let go of the engine, should it have been asked."""
        with self._guard:
            if self._client is not None:
                self._client.close()
                self._client = None

    def line(self) -> Line:
        """A connection of its own for one long call."""
        return Line(self._client_factory())

    def platform_of(self, image: model.Image) -> str:
        """The platform asked for, else the engine's own."""
        if image.platform:
            return normal_platform(image.platform)
        if self._engine_platform is None:
            with engine_errors():
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

        `secrets`: values by name, of which a build mounts those that it asks for.
        """
        key = (identity(image), image.pull)
        with self._guard:
            had = self._had.get(key)
            mine = had is None
            if had is None:
                had = self._had[key] = Future()
        if not mine:
            return _wait_for(had, image, on_output, cancel)
        try:
            resolved = self._resolve(image, workspace, on_output, cancel, secrets)
        except BaseException as error:
            # Those who wait now fail with us; whoever asks later (a retried job) starts anew.
            with self._guard:
                del self._had[key]
            had.set_exception(error)
            raise
        had.set_result(resolved)
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
            # Imported for those who build: most jobs wait for a container to start, and would wait for this too.
            from loom.providers.docker.build import build_image

            root = self._inputs.get((image.build.context, image.build.dockerfile), workspace)
            return build_image(
                self,
                image,
                environ=self._environ,
                workspace=root,
                on_output=on_output,
                cancel=cancel,
                secrets=secrets,
            )
        if image.name is None:
            raise ImageError("the job's image has neither a name nor a build", hint="Give it one of the two.")
        try:
            return self.have(image.name, image.pull, self.platform_of(image), on_output=on_output, cancel=cancel)
        except ImageError as error:
            near = self._near(image.name) if error.code in _MAY_BE_MISSPELT else []
            if not near:
                raise
            hint = f"on this engine: {', '.join(near)}"
            raise ImageError(
                error.message, hint=f"{error.hint}\n{hint}" if error.hint else hint, code=error.code
            ) from error

    def _near(self, name: str) -> list[str]:
        """Images of this engine with names like this one."""
        import difflib

        with engine_errors():
            tags = [tag for found in self.client.api.images() for tag in found.get("RepoTags") or ()]
        base = {tag: tag.rpartition("/")[2] for tag in tags}
        close = difflib.get_close_matches(name.rpartition("/")[2], set(base.values()), n=3, cutoff=0.6)
        return sorted((tag for tag in tags if base[tag] in close), key=lambda tag: close.index(base[tag]))[:3]

    def keep_inputs(self, builds: Iterable[model.Build], *, workspace: Path, folder: Path) -> None:
        """Build these from what `workspace` holds now, whatever jobs write there until then; `folder` keeps a copy."""
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
        """What `resolve` would use without pulling or building anything; None when it would have to."""
        platform = self.platform_of(image)
        if image.build is None:
            return self.present(image.name or "", platform)

        tag = self.build_tag(image, workspace=workspace)
        had = self.local(parse_reference(tag), platform) if tag is not None else None
        return had and replace(had, name=parse_reference(image.name).name if image.name else had.name, built=True)

    def build_tag(self, image: model.Image, *, workspace: Path) -> str | None:
        """What a build of these inputs is kept as; None when an image that it starts from is not here, or what the files
        are is not known."""

        def have(name: str, platform: str) -> ResolvedImage:
            present = self.present(name, platform)
            if present is None:
                raise _NotHere(name)
            return present

        from loom.providers.docker.build import settle

        try:
            inputs = settle(self, image, workspace=workspace, have=have)
            return inputs.tag if inputs.known else None
        except _NotHere:
            return None

    def present(self, name: str, platform: str) -> ResolvedImage | None:
        """The image that the lock, or else the name, says, if this engine has it."""
        reference = parse_reference(name)
        locked = self._lock.get(reference.name, platform) if self._lock is not None else None
        return self.local(reference, platform) if locked is None else self._local_locked(reference, locked, platform)

    def have(
        self, name: str, policy: model.PullPolicy, platform: str, *, on_output: OnOutput, cancel: Cancel
    ) -> ResolvedImage:
        """An image by name, as the lock and the policy say."""
        reference = parse_reference(name)
        locked = self.locked(reference, platform)
        if locked is not None:
            return self._have_locked(reference, locked, policy, platform, on_output, cancel)
        local = self.local(reference, platform)
        if local is not None and (policy != "always" or reference.digest):
            return local
        if policy == "never":
            raise ImageError(
                f"{reference.name} ({platform}) is not on this engine, and its pull policy is `never`",
                hint=f"Load or build it first, or pull it by hand: docker pull {reference.name}",
                code="IMAGE_NOT_PRESENT",
            )
        self.pull(reference, platform, on_output=on_output, cancel=cancel)
        return self._must_have(reference, platform)

    def locked(self, reference: Reference, platform: str) -> Locked | None:
        """What the lock pins this image to. ImageError under `frozen` for what it does not hold."""
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

    def _have_locked(
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
        self.pull(pinned, platform, on_output=on_output, cancel=cancel)
        had = self._must_have(pinned, platform)
        return replace(had, name=reference.name, digest=locked.digest)

    def _local_locked(self, reference: Reference, locked: Locked, platform: str) -> ResolvedImage | None:
        pinned = parse_reference(reference.pinned(locked.digest)) if locked.digest else None
        for candidate in (pinned, reference):
            local = self.local(candidate, platform) if candidate is not None else None
            if local is not None and (candidate is pinned or local.image_id == locked.image_id):
                return replace(local, name=reference.name, digest=locked.digest or local.digest)
        return None

    def local(self, reference: Reference, platform: str | None = None) -> ResolvedImage | None:
        """The image as the engine's store has it; None when it is absent or of another platform."""
        with engine_errors():
            try:
                attributes = self.client.api.inspect_image(reference.name)  # type: ignore[no-untyped-call]
            except docker.errors.ImageNotFound:
                return None
        image = _resolved(reference.name, reference, attributes)
        return image if platform is None or _same_platform(image.platform, platform) else None

    def _must_have(self, reference: Reference, platform: str) -> ResolvedImage:
        had = self.local(reference, platform)
        if had is None:
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
        return had

    def served(self, reference: Reference) -> Served:
        """What the registry serves for a name right now, without pulling. ImageError when that can't be known."""
        credentials = credentials_for(reference.registry, self._environ)
        try:
            with engine_errors():
                served = self.client.api.inspect_distribution(  # type: ignore[no-untyped-call]
                    reference.name, auth_config=dict(credentials.auth)
                )
        except docker.errors.APIError as error:
            raise explain(reference, explanation(error), "", credentials) from error
        platforms = (
            normal_platform("/".join(filter(None, (entry.get("os"), entry.get("architecture"), entry.get("variant")))))
            for entry in served.get("Platforms") or ()
            if entry.get("os") not in (None, "", "unknown")
        )
        return Served(digest=str(served["Descriptor"]["digest"]), platforms=tuple(platforms))

    def pull(self, reference: Reference, platform: str, *, on_output: OnOutput, cancel: Cancel) -> None:
        """Pull with the user's credentials; a registry that does not answer gets a few more tries."""
        credentials = credentials_for(reference.registry, self._environ)
        if credentials.problem:
            say(on_output, f"going on without credentials for {reference.registry}: {credentials.problem}")
        say(on_output, f"pulling {reference.name} ({platform})")
        pause_s = _FIRST_PAUSE_S
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._pull_once(reference, platform, credentials, on_output, cancel)
                return
            except docker.errors.APIError as error:
                wrong = explain(reference, explanation(error), platform, credentials)
            except _PullFailed as error:
                wrong = explain(reference, str(error), platform, credentials)
            if wrong.code not in _WORTH_ANOTHER_TRY or attempt == _ATTEMPTS:
                raise wrong
            say(on_output, f"{wrong.message}; trying again in {pause_s:g} s ({attempt} of {_ATTEMPTS - 1})")
            if cancel.wait(pause_s):
                raise canceled(f"pulling {reference.name}")
            pause_s *= 3

    def _pull_once(
        self, reference: Reference, platform: str, credentials: Credentials, on_output: OnOutput, cancel: Cancel
    ) -> None:
        started = time.monotonic()
        progress = Progress()
        said_at = started

        with self.line() as line:

            def lines() -> Iterator[dict[str, Any]]:
                # The request itself belongs in here: it blocks until the registry has answered the engine.
                yield from line.client.api.pull(
                    reference.repository_name,
                    tag=reference.digest or reference.tag,
                    stream=True,
                    decode=True,
                    # An empty mapping, unlike None, keeps the SDK from looking for credentials of its own.
                    auth_config=dict(credentials.auth),
                    platform=platform,
                )

            for tick in in_background(lines(), cancel, what=f"pulling {reference.name}", cut=line.cut):
                if "error" in tick:
                    raise _PullFailed(str(tick["error"]))
                progress.see(tick)
                now = time.monotonic()
                if now - said_at >= _PROGRESS_EVERY_S and progress.layers:
                    said_at = now
                    say(on_output, f"  {progress}")
        took = time.monotonic() - started
        digest = f" {progress.digest}" if progress.digest and not reference.digest else ""
        say(on_output, f"{progress.outcome or 'pulled'} {reference.name}{digest} in {took:.1f} s")


class _NotHere(Exception):
    """An image that a build starts from is not on this engine."""


class _PullFailed(Exception):
    """What the engine wrote into the progress stream."""


class Progress:
    """A pull's layers, folded from the engine's ticks."""

    def __init__(self) -> None:
        self._layers: dict[str, tuple[int, int]] = {}
        self._done: set[str] = set()
        self.digest = ""
        self.outcome = ""

    @property
    def layers(self) -> int:
        return len(self._layers)

    def see(self, line: Mapping[str, Any]) -> None:
        status = str(line.get("status", ""))
        layer = str(line.get("id", ""))
        detail = line.get("progressDetail") or {}
        if status == "Pulling fs layer":
            self._layers.setdefault(layer, (0, 0))
        elif status == "Downloading" and detail.get("total"):
            self._layers[layer] = (int(detail.get("current", 0)), int(detail["total"]))
        elif status in ("Download complete", "Pull complete", "Already exists"):
            current, total = self._layers.get(layer, (0, 0))
            self._layers[layer] = (max(current, total), total)
            if status != "Download complete":
                self._done.add(layer)
        elif status.startswith("Digest: "):
            self.digest = status.removeprefix("Digest: ")
        elif "Image is up to date" in status:
            self.outcome = "already up to date:"

    def __str__(self) -> str:
        have = sum(current for current, _ in self._layers.values())
        total = sum(total for _, total in self._layers.values())
        return f"{len(self._done)} of {len(self._layers)} layers, {rough_size(have)} of {rough_size(total)}"


def _wait_for(had: Future[ResolvedImage], image: model.Image, on_output: OnOutput, cancel: Cancel) -> ResolvedImage:
    # Most images are there, and had in a moment: only a wait that one would notice is worth a line.
    worth_a_line_at = time.monotonic() + 0.5
    while not had.done():
        if cancel.requested:
            raise canceled(f"waiting for {shown(image)}")
        if time.monotonic() > worth_a_line_at:
            say(on_output, f"waiting for {shown(image)}, which another job is getting")
            worth_a_line_at = math.inf
        wait([had], timeout=0.1)
    return had.result()  # no limit: it is done


def _resolved(name: str, reference: Reference, attributes: Mapping[str, Any]) -> ResolvedImage:
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


def _same_platform(have: str, want: str) -> bool:
    """An image without a variant serves any variant of its architecture asked for, and the other way round."""
    return have.split("/")[:2] == want.split("/")[:2] and (have.count("/") < 2 or want.count("/") < 2 or have == want)


_WORTH_ANOTHER_TRY = frozenset({"IMAGE_REGISTRY_DOWN", "IMAGE_RATE_LIMITED"})
_MAY_BE_MISSPELT = frozenset({"IMAGE_NOT_FOUND", "IMAGE_DENIED", "IMAGE_NOT_PRESENT", "IMAGE_REGISTRY_DOWN"})


def explain(reference: Reference, said: str, platform: str, credentials: Credentials) -> ImageError:
    """The engine's words about a failed pull, as one of the few things that can be wrong, with the next move."""
    low = said.lower()

    def has(*parts: str) -> bool:
        return any(part in low for part in parts)

    name, registry = reference.name, reference.registry
    login = "docker login" if registry == "docker.io" else f"docker login {registry}"
    if has("no matching manifest", "does not match the specified platform", "no match for platform"):
        return ImageError(
            f"{name} is not made for {platform}: {said}",
            hint="Set the image's `platform` to one that it is made for, or choose another image.",
            code="IMAGE_PLATFORM",
        )
    if has("toomanyrequests", "too many requests", "rate limit"):
        return ImageError(
            f"{registry} refuses more pulls for now: {said}",
            hint=f"Wait, or log in for a higher limit: {login}",
            code="IMAGE_RATE_LIMITED",
        )
    if has(
        "unauthorized",
        "authentication required",
        "no basic auth",
        "access denied",
        "access to the resource is denied",
        "forbidden",
        "incorrect username or password",
        "denied:",
    ):
        used = (
            f"the credentials from {credentials.source} were refused"
            if credentials.auth
            else "no credentials were used"
        )
        if credentials.problem:
            used = credentials.problem
        return ImageError(
            f"{registry} denies access to {name}: {used}",
            hint=f"Log in ({login}), or check the name: many registries answer so for an image that is not there.\n"
            f"The registry said: {said}",
            code="IMAGE_DENIED",
        )
    if has("manifest unknown", "not found", "repository does not exist", "name unknown"):
        return ImageError(
            f"{name} is not in {registry}",
            hint=f"Check the name and the tag. The registry said: {said}",
            code="IMAGE_NOT_FOUND",
        )
    if has("no space left"):
        return ImageError(
            f"the engine's disk is full: {said}", hint="Make room there: docker system df", code="IMAGE_DISK_FULL"
        )
    if has(
        "connection refused",
        "no such host",
        "i/o timeout",
        "timeout",
        "tls:",
        "x509",
        "eof",
        "connection reset",
        "server misbehaving",
        "unreachable",
        "no route",
        "temporary failure",
        "deadline exceeded",
        "http response to",
        "502",
        "503",
        "504",
        "500 internal",
        "service unavailable",
        "bad gateway",
        "dial tcp",
    ):
        return ImageError(
            f"{registry} can't be reached: {said}",
            hint="Is the registry up, and does the engine's machine reach it (proxy, VPN, certificate)?",
            code="IMAGE_REGISTRY_DOWN",
        )
    return ImageError(f"{name} could not be pulled: {said}", hint=f"Try it by hand: docker pull {name}")
