"""References to images, taken apart and normalised: no engine and no registry is asked."""

from __future__ import annotations

import re

from msgspec import Struct

from loom.errors import RequestError

_DEFAULT_REGISTRY = "docker.io"
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_REGISTRY = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
DIGEST = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-fA-F]{32,}")


class Reference(Struct, frozen=True, kw_only=True):
    """An image's name taken apart, with Docker's defaults filled in. `tag` is "" when only a digest names the image."""

    registry: str
    repository: str
    tag: str
    digest: str = ""

    @property
    def repository_name(self) -> str:
        """Registry and repository as Docker shows them: `debian`, `quay.io/fedora/fedora`."""
        if self.registry != _DEFAULT_REGISTRY:
            return f"{self.registry}/{self.repository}"
        return self.repository.removeprefix("library/")

    @property
    def name(self) -> str:
        """As Docker shows it, always with a tag or a digest: `debian:trixie-slim`."""
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.repository_name}{tag}{digest}"

    def pinned(self, digest: str) -> str:
        """The name of exactly this digest."""
        return f"{self.repository_name}@{digest}"


def parse_reference(text: str) -> Reference:
    """RequestError for what can't name an image."""
    rest, _, digest = text.partition("@")
    head, slash, tail = rest.partition("/")
    if slash and ("." in head or ":" in head or head == "localhost" or head != head.lower()):
        registry, path = head, tail
    else:
        registry, path = _DEFAULT_REGISTRY, rest
    if registry in ("index.docker.io", "registry-1.docker.io"):
        registry = _DEFAULT_REGISTRY
    repository, colon, tag = path.partition(":")
    if registry == _DEFAULT_REGISTRY and "/" not in repository:
        repository = f"library/{repository}"
    fine = (
        _REGISTRY.fullmatch(registry)
        and _REPOSITORY.fullmatch(repository)
        and (not colon or _TAG.fullmatch(tag))
        and ("@" not in text or DIGEST.fullmatch(digest))
    )
    if not fine:
        raise RequestError(
            f"{text!r} is not an image's name",
            hint="Write it as [REGISTRY/]NAME[:TAG][@DIGEST], the name in lower case: debian:trixie-slim",
            code="IMAGE_REFERENCE_INVALID",
        )
    return Reference(registry=registry, repository=repository, tag=tag if colon or digest else "latest", digest=digest)


_ARCHITECTURES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm/v7",
    "armel": "arm/v6",
    "i386": "386",
}


def normal_platform(text: str) -> str:
    """`os/architecture[/variant]` in the registry's spelling, so that two spellings of one platform compare equal."""
    parts = text.lower().split("/")
    if len(parts) == 1:
        parts = ["linux", *parts]
    system, architecture, *variant = parts
    architecture, *implied = _ARCHITECTURES.get(architecture, architecture).split("/")
    variant = [v for v in (variant or implied) if v and (architecture, v) not in (("arm64", "v8"), ("amd64", "v1"))]
    return "/".join([system, architecture, *variant])


def short(digest: str) -> str:
    """Enough of a digest for people."""
    return digest.removeprefix("sha256:")[:12]
