"""The common part of the two services: who asks, what a request holds, open uploads, and addresses for bytes."""

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import token_bytes, token_hex
from typing import Any, Literal

from msgspec import field

from loom.action_services.uploads import Refused, Room, Upload
from loom.storage.cache import Cache
from loom.util.masking import Masker
from loom.values import Immutable

_LONGEST_TEXT = 1024
_MOST_TEXTS = 100
_MOST_UPLOADS = 500
"""Open ones, of one job."""

Kind = Literal["upload", "cache", "artifact"]
Message = Mapping[str, Any]
"""A request of an action, or the answer, as JSON has it."""


class Client(Immutable, eq=False):
    """A job that may use the services, by its token."""

    job_id: str
    pipeline: str
    """The jobs with the same one share their artifacts."""
    folder: Path
    """For its artifacts."""
    url: str
    """The address at which it reaches the server."""
    read_only: bool = False
    """It may not save caches."""
    tell: Callable[[str, Mapping[str, Any]], None]
    """Record a fact of the job."""


class ServiceStore(Immutable):
    """What the services of one run read and keep."""

    cache: Cache | None
    """None if the run uses none; then each request for a cache is a miss."""
    jobs_of: Callable[[str], Iterable[str]]
    """Return the jobs of a pipeline, in order."""
    folder_of: Callable[[str], Path]
    """Return the folder of a job's artifacts, in `record` or in that of an earlier run."""
    record: Path
    """Of this run; others are not changed."""
    most_bytes: int
    """The limit of all open uploads."""
    masker: Masker = field(default_factory=Masker)
    """Finds the secrets of the jobs: nothing that holds one is kept. What actions mask is hidden in the output alone."""

    @property
    def uploads(self) -> Path:
        """The folder of open uploads, on the same disk as the record."""
        return self.record / "uploads"


class Uploads:
    """The open uploads of a run, each for what a job has reserved, and addresses for bytes. Thread-safe."""

    def __init__(self, store: ServiceStore) -> None:
        self._folder = store.uploads
        self._room = Room(store.most_bytes)
        self._secret = token_bytes(32)
        self._lock = threading.Lock()
        self._open: dict[str, tuple[Client, tuple[str, ...], Upload]] = {}

    def begin(self, client: Client, *reserved: str) -> str | None:
        """Begin an upload; return its address. None while another one for the same is open: not ended, nor its job."""
        with self._lock:
            if any(one == reserved for _, one, _ in self._open.values()):
                return None
            if sum(one is client for one, _, _ in self._open.values()) >= _MOST_UPLOADS:
                raise Refused(429, "resource_exhausted", f"the job has {_MOST_UPLOADS} open uploads")
            name = token_hex(16)
            self._open[name] = client, reserved, Upload(self._folder / name, self._room)
        return self.address(client, "upload", name)

    @contextmanager
    def taken(self, client: Client, size: str, kind: str, *reserved: str) -> Iterator[Upload]:
        """End the client's upload for this: complete in the block, and removed afterwards. Refused if it has another size."""
        with self._lock:
            own = (name for name, (*one, _) in self._open.items() if one == [client, (kind, *reserved)])
            found = self._open.pop(next(own, ""), None)
        if found is None:
            raise Refused(404, "not_found", f"no upload of the {kind} {reserved[-1]!r} was begun")
        upload = found[2]
        try:
            if str(upload.size) != size or not upload.sha256:
                raise Refused(400, "invalid_argument", f"the upload has {upload.size} bytes instead of {size}")
            yield upload
        finally:
            upload.close()

    def find(self, name: str) -> Upload:
        """Return an open upload by the name in its address."""
        if (found := self._open.get(name)) is None:
            raise Refused(404, "not_found", "there is no such upload")
        return found[2]

    def drop(self, client: Client) -> None:
        """Remove those that a job has not finished."""
        with self._lock:
            left = [self._open.pop(name)[2] for name, (one, *_) in list(self._open.items()) if one is client]
        for upload in left:
            upload.close()

    def address(self, client: Client, kind: Kind, name: str) -> str:
        """Return an address for this purpose alone."""
        return f"{client.url}/loom/{kind}/{name}?sig={self.signature(f'{kind}/{name}').hex()}"

    def check(self, kind: str, name: str, signature: str) -> None:
        """Raise Refused for an address that `address` did not make."""
        if not hmac.compare_digest(
            self.signature(f"{kind}/{name}").hex().encode(), signature.encode("utf-8", "replace")
        ):
            raise Refused(403, "permission_denied", "the address is not signed by this run")

    def signature(self, text: str) -> bytes:
        return hmac.digest(self._secret, text.encode("utf-8", "surrogateescape"), "sha256")


def text(request: Message, name: str, default: str | None = None) -> str:
    """Return a value of a request; Refused for a missing one, and for one that is not a short text."""
    value = request.get(name, default)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT or not _is_unicode(value):
        raise Refused(400, "invalid_argument", f"{name}: expected a text of at most {_LONGEST_TEXT} characters")
    return value


def texts(request: Message, name: str) -> Sequence[str]:
    """Return a list of a request; Refused as for `text`."""
    values = request.get(name) or []
    if not isinstance(values, list) or len(values) > _MOST_TEXTS:
        raise Refused(400, "invalid_argument", f"{name}: expected at most {_MOST_TEXTS} texts")
    return [text({name: value}, name) for value in values]


def _is_unicode(value: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in value)
