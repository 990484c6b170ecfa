"""Registries through the engine: lookups, pulls, and errors."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import docker.errors

from loom.errors import ImageError
from loom.images.reference import Reference, normal_platform
from loom.providers.base import ResolveRequest
from loom.providers.docker.engine import retries
from loom.providers.docker.engine.client import Engine
from loom.providers.docker.engine.errors import engine_errors, explanation
from loom.providers.docker.engine.long_calls import canceled, streamed
from loom.providers.docker.images.credentials import Credentials, credentials_for
from loom.util.units import rough_size

_PROGRESS_EVERY_S = 5.0


def served(engine: Engine, reference: Reference) -> tuple[str, tuple[str, ...]]:
    """Look up a name without pulling; return its digest, and the platforms, if the registry lists them. ImageError on failure."""
    credentials = credentials_for(reference.registry, engine.environ)
    try:
        with engine_errors():
            found = engine().api.inspect_distribution(reference.name, auth_config=dict(credentials.auth))
    except docker.errors.APIError as error:
        raise explain(reference, explanation(error), "", credentials) from error
    platforms = (
        normal_platform("/".join(filter(None, (entry.get("os"), entry.get("architecture"), entry.get("variant")))))
        for entry in found.get("Platforms") or ()
        if entry.get("os") not in (None, "", "unknown")
    )
    return str(found["Descriptor"]["digest"]), tuple(platforms)


def pull(engine: Engine, reference: Reference, platform: str, request: ResolveRequest) -> None:
    """Pull with the user's credentials; retry when the registry does not answer."""
    credentials = credentials_for(reference.registry, engine.environ)
    if credentials.problem:
        request.say(f"going on without credentials for {reference.registry}: {credentials.problem}")
    request.say(f"pulling {reference.name} ({platform})")

    def once() -> None:
        try:
            _pull_once(engine, reference, platform, credentials, request)
        except docker.errors.APIError as error:
            raise explain(reference, explanation(error), platform, credentials) from error

    def announce(wrong: BaseException, pause_s: float, attempt: int) -> None:
        of = retries.PULL.attempts - 1
        request.say(f"{getattr(wrong, 'message', wrong)}; trying again in {pause_s:g} s ({attempt} of {of})")

    try:
        retries.retrying(once, retries.PULL, before=announce, cancel=request.cancel)
    except ImageError as error:
        if request.cancel.requested:
            raise canceled(f"pulling {reference.name}") from error
        raise


def _pull_once(
    engine: Engine, reference: Reference, platform: str, credentials: Credentials, request: ResolveRequest
) -> None:
    started = said_at = time.monotonic()
    progress = Progress()

    def ask(api: Any) -> Any:
        return api.pull(
            reference.repository_name,
            tag=reference.digest or reference.tag,
            stream=True,
            decode=True,
            # An empty mapping, unlike None, keeps the SDK from looking for credentials of its own.
            auth_config=dict(credentials.auth),
            platform=platform,
        )

    for tick in streamed(engine, ask, request.cancel, what=f"pulling {reference.name}"):
        if "error" in tick:
            raise progress.given_up(explain(reference, str(tick["error"]), platform, credentials))
        progress.see(tick)
        now = time.monotonic()
        if now - said_at >= _PROGRESS_EVERY_S and progress.layers:
            said_at = now
            request.say(f"  {progress}")
    took = time.monotonic() - started
    digest = f" {progress.digest}" if progress.digest and not reference.digest else ""
    request.say(f"{progress.outcome} {reference.name}{digest} in {took:.1f} s")


class Progress:
    """The state of a pull's layers, folded from the engine's progress messages."""

    def __init__(self) -> None:
        self.layers: dict[str, tuple[int, int]] = {}
        self._done: set[str] = set()
        self._repeated = False
        self.digest = ""
        self.outcome = "pulled"

    def see(self, line: Mapping[str, Any]) -> None:
        status, layer, detail = str(line.get("status", "")), str(line.get("id", "")), line.get("progressDetail") or {}
        if status == "Pulling fs layer":
            self.layers.setdefault(layer, (0, 0))
        elif status == "Downloading" and detail.get("total"):
            self.layers[layer] = (int(detail.get("current", 0)), int(detail["total"]))
        elif status in ("Download complete", "Pull complete", "Already exists"):
            _, total = self.layers.get(layer, (0, 0))
            self.layers[layer] = (total, total)
            if status != "Download complete":
                self._done.add(layer)
        elif status.startswith("Retrying in "):
            self._repeated = True
        elif status.startswith("Digest: "):
            self.digest = status.removeprefix("Digest: ")
        elif "Image is up to date" in status:
            self.outcome = "already up to date:"

    def given_up(self, error: ImageError) -> ImageError:
        """Return the error that ends the pull. An engine that repeated a layer has tried it for almost a minute already."""
        if not self._repeated:
            return error
        message = f"{error.message} (the engine's own repetitions failed too)"
        return retries.NotRepeated(message, hint=error.hint, code=error.code)

    def __str__(self) -> str:
        loaded, total = (sum(sizes) for sizes in zip(*self.layers.values(), strict=True))
        return f"{len(self._done)} of {len(self.layers)} layers, {rough_size(loaded)} of {rough_size(total)}"


def same_platform(actual: str, wanted: str) -> bool:
    """Compare platforms: an image without a variant serves every variant of its architecture, and vice versa."""
    return actual.split("/")[:2] == wanted.split("/")[:2] and (
        actual.count("/") < 2 or wanted.count("/") < 2 or actual == wanted
    )


# Pattern of the engine's answer (in lower case) to the error's code, text and hint; the first match counts.
_REFUSALS: Mapping[str, tuple[str, str, str]] = {
    "no matching manifest|does not match the specified platform|no match for platform": (
        "IMAGE_PLATFORM",
        "{name} is not made for {platform}: {answer}",
        "Set the image's `platform` to one that it is made for, or choose another image.",
    ),
    "toomanyrequests|too many requests|rate limit": (
        "IMAGE_RATE_LIMITED",
        "{registry} refuses more pulls for now: {answer}",
        "Wait, or log in for a higher limit: {login}",
    ),
    "unauthorized|authentication required|no basic auth|access denied|access to the resource is denied|forbidden"
    "|incorrect username or password|denied:": (
        "IMAGE_DENIED",
        "{registry} denies access to {name}: {used}",
        (
            "Log in ({login}), or check the name: many registries answer so for an image that is not there.\n"
            "The registry's answer: {answer}"
        ),
    ),
    "manifest unknown|not found|repository does not exist|name unknown": (
        "IMAGE_NOT_FOUND",
        "{name} is not in {registry}",
        "Check the name and the tag. The registry's answer: {answer}",
    ),
    "no space left": ("IMAGE_DISK_FULL", "the engine's disk is full: {answer}", "Make room there: docker system df"),
    "signed by unknown authority|certificate is not trusted": (
        "IMAGE_CERTIFICATE",
        "{registry} can't be reached: {answer}",
        (
            "Give its authority's certificate to the engine's machine, as root: /etc/docker/certs.d/{registry}/ca.crt (Podman: "
            "/etc/containers/certs.d/...); that of a proxy between: into the machine's own certificates, and restart the engine"
        ),
    ),
    "x509|http response to https": (
        "IMAGE_CERTIFICATE",
        "{registry} can't be reached: {answer}",
        (
            "Mend the registry's certificate (name, dates) or the engine's clock; or let the engine go without: "
            '`"insecure-registries": ["{registry}"]` in /etc/docker/daemon.json, and restart it'
        ),
    ),
    "proxyconnect|proxy": (
        "IMAGE_REGISTRY_DOWN",
        "{registry} can't be reached: {answer}",
        "Mend the engine's proxy (`docker info` shows it): `proxies` in /etc/docker/daemon.json, and restart it",
    ),
    "no such host": (
        "IMAGE_REGISTRY_DOWN",
        "{registry} is not known where the engine runs: {answer}",
        "Check the registry's name, and whether the engine's machine is online: a company's own needs its VPN or DNS there",
    ),
    "connection refused|timeout|tls:|eof|connection reset|server misbehaving|unreachable|no route"
    "|temporary failure|deadline exceeded|http response to|502|503|504|500 internal|service unavailable|bad gateway"
    "|dial tcp": (
        "IMAGE_REGISTRY_DOWN",
        "{registry} can't be reached: {answer}",
        (
            "Is the registry up, and does the engine's machine reach it? Behind a proxy, the engine needs it, too: "
            '`"proxies": {{"https-proxy": "URL"}}` in /etc/docker/daemon.json, and a restart'
        ),
    ),
}


def explain(reference: Reference, answer: str, platform: str, credentials: Credentials) -> ImageError:
    """Return the error for the engine's message about a failed pull, with the next move."""
    refused = f"the credentials from {credentials.source} were refused"
    values = {
        "name": reference.name,
        "registry": reference.registry,
        "platform": platform,
        "answer": answer,
        "login": "docker login" if reference.registry == "docker.io" else f"docker login {reference.registry}",
        "used": credentials.problem or (refused if credentials.auth else "no credentials were used"),
    }
    for pattern, (code, message, hint) in _REFUSALS.items():
        if re.search(pattern, answer.lower()):
            return ImageError(message.format(**values), hint=hint.format(**values), code=code)
    return ImageError(
        f"{reference.name} could not be pulled: {answer}", hint=f"Try it by hand: docker pull {reference.name}"
    )
