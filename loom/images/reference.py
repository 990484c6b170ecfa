"""Parse and normalise image references, without an engine or registry."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher

from loom.errors import RequestError
from loom.values import Immutable

_DEFAULT_REGISTRY = "docker.io"
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_REGISTRY = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_SIMILAR = 0.7
DIGEST = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-fA-F]{32,}")


class Reference(Immutable):
    """A parsed image name with Docker's defaults. `tag` is "" when the name has only a digest."""

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
        """The name as Docker shows it, always with tag or digest: `debian:trixie-slim`."""
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.repository_name}{tag}{digest}"

    def pinned(self, digest: str) -> str:
        """Return the name of this exact digest."""
        return f"{self.repository_name}@{digest}"


def parse_reference(text: str) -> Reference:
    """Parse an image name. RequestError for an invalid one."""
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
            f"{text!r} is not a valid image name",
            hint="Write it as [REGISTRY/]NAME[:TAG][@DIGEST], with NAME in lower case: debian:trixie-slim",
            code="IMAGE_REFERENCE_INVALID",
        )
    return Reference(registry=registry, repository=repository, tag=tag if colon or digest else "latest", digest=digest)


def similar(reference: Reference, names: Iterable[str]) -> list[str]:
    """Return up to three of these names of images that may stand for another one, the most similar first."""

    def likeness(other: Reference) -> tuple[bool, float]:
        last, theirs = (one.repository.rpartition("/")[2] for one in (reference, other))
        same = last in theirs or theirs in last
        return same, SequenceMatcher(None, reference.name, other.name).ratio()

    ranked = sorted(((likeness(parse_reference(name)), name) for name in names), reverse=True)
    return [name for (same, ratio), name in ranked if same or ratio > _SIMILAR][:3]


def replacement(name: str, images: Mapping[str, str]) -> str | None:
    """Return the image that `images` has for a name, in any spelling of the reference. Other keys are labels of runners."""
    wanted = _normal(name)
    return next((image for key, image in images.items() if key == name or _normal(key) == wanted), None)


def _normal(name: str) -> str:
    try:
        return parse_reference(name).name
    except RequestError:
        return name


_ARCHITECTURES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm/v7",
    "armel": "arm/v6",
    "i386": "386",
}


def normal_platform(text: str) -> str:
    """Normalise a platform to the registry's `os/architecture[/variant]`, so that different spellings compare equal."""
    parts = text.lower().split("/")
    if len(parts) == 1:
        parts = ["linux", *parts]
    system, architecture, *variant = parts
    architecture, *implied = _ARCHITECTURES.get(architecture, architecture).split("/")
    variant = [v for v in (variant or implied) if v and (architecture, v) not in (("arm64", "v8"), ("amd64", "v1"))]
    return "/".join([system, architecture, *variant])


def short(digest: str) -> str:
    """Shorten a digest for display."""
    return digest.removeprefix("sha256:")[:12]


def service_aliases(reference: str) -> tuple[str, ...]:
    """Derive a service's host names from its image: `postgres:16` is postgres, `a/b:1` is a-b and a__b."""
    path = re.sub(r"(@[^/]*)?$", "", reference)
    path = re.sub(r":[^/:]*$", "", path)
    parts = [part.split(":")[0] for part in path.split("/")]
    names = ("-".join(parts), "__".join(parts)) if len(parts) > 1 else (parts[0],)
    return tuple(dict.fromkeys(name.lower() for name in names))
