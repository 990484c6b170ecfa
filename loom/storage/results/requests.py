"""The common part of the two services: who asks, what a request holds, and addresses for bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol

from msgspec import Struct

from loom.storage.results.uploads import Refused, Upload

_LONGEST_TEXT = 1024
_MOST_TEXTS = 100

Kind = Literal["upload", "cache", "artifact"]


class Client(Struct, frozen=True, kw_only=True, eq=False):
    """A job that may use the services, by its token."""

    job_id: str
    pipeline: str
    """The jobs with the same one share their artifacts."""
    folder: Path
    """For its artifacts."""
    read_only: bool = False
    """It may not save caches."""
    tell: Callable[[str, Mapping[str, Any]], None]
    """Record a fact of the job."""


class Files(Protocol):
    """Uploads and addresses, of the server."""

    def begin(self, client: Client) -> str:
        """Begin an upload; return its id."""

    def taken(self, upload: str, size: str) -> AbstractContextManager[Upload]:
        """End an upload: complete in the block, and removed afterwards. Refused if it has another size."""

    def is_open(self, upload: str) -> bool:
        """Return whether nobody has taken it, nor has its job ended."""

    def address(self, client: Client, kind: Kind, name: str) -> str:
        """Return an address for this purpose alone."""


def text(request: Mapping[str, Any], name: str, default: str | None = None) -> str:
    """Return a value of a request; Refused for a missing one, and for one that is not a short text."""
    value = request.get(name, default)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT or not _is_unicode(value):
        raise Refused(400, "invalid_argument", f"{name}: expected a text of at most {_LONGEST_TEXT} characters")
    return value


def texts(request: Mapping[str, Any], name: str) -> Sequence[str]:
    """Return a list of a request; Refused as for `text`."""
    values = request.get(name) or []
    if not isinstance(values, list) or len(values) > _MOST_TEXTS:
        raise Refused(400, "invalid_argument", f"{name}: expected at most {_MOST_TEXTS} texts")
    return [text({name: value}, name) for value in values]


def _is_unicode(value: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in value)
