"""GitHub's cache service, version 2, over loom's cache.

An entry is known by its key and a *version*, which the toolkit makes of the paths and the compression; the archive is the
toolkit's. As on GitHub, an entry never changes.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from typing import IO

import zstandard
from msgspec.structs import asdict

from loom.action_services.requests import Client, Message, ServiceStore, Uploads, text, texts
from loom.action_services.uploads import Refused, Upload
from loom.plan.model import Cache as Spec
from loom.storage.tar import Content

_LONGEST_KEY = 512
_READ_ONLY = "the event is a pull request of another repository, which only reads caches"
_SPARE = 1 << 30
"""The window of the most thorough compression that the toolkit asks of zstd."""


class CacheService:
    def __init__(self, store: ServiceStore, uploads: Uploads) -> None:
        self._cache = store.cache
        self._uploads = uploads
        self._masker = store.masker

    def create(self, client: Client, request: Message) -> Message:
        """`CreateCacheEntry`: reserve a key, and give an address to upload to."""
        key, version = _key(request), text(request, "version")
        if self._cache is None or client.read_only:
            return {"ok": False, "message": _READ_ONLY if client.read_only else "this run saves no caches"}
        there = self._cache.has(_spec(version), key)
        if there or (address := self._uploads.begin(client, "cache", version, key)) is None:
            return {"ok": False, "message": f"there is a cache {key!r} already"}
        return {"ok": True, "signed_upload_url": address}

    def finish(self, client: Client, request: Message) -> Message:
        """`FinalizeCacheEntryUpload`: store what was uploaded."""
        key, version = _key(request), text(request, "version")
        with self._uploads.taken(client, text(request, "size_bytes", "0"), "cache", version, key) as upload:
            assert self._cache is not None, "otherwise none was begun"
            secret = self._secret_in(upload)
            if secret is not None:
                warning = f"not saved: it holds the secret {secret}"
                client.tell("cache", {"action": "save", "name": None, "key": key, "saved": False, "warning": warning})
                return {"ok": False, "message": f"the cache {key!r} is {warning}"}
            with upload.file.open("rb") as archive:
                saved = self._cache.take(_spec(version), key, archive)
        client.tell("cache", {"action": "save", "name": None, **asdict(saved)})
        if not saved.saved:
            return {"ok": False, "message": saved.warning}
        return {"ok": True, "entry_id": str(number_of(f"{key}\0{version}"))}

    def find(self, client: Client, request: Message) -> Message:
        """`GetCacheEntryDownloadURL`: find the key itself, else the newest entry that begins with it, or with a later key."""
        key, version = _key(request), text(request, "version")
        if self._cache is None:
            return {"ok": False}
        spec = _spec(version, (key, *texts(request, "restore_keys")))
        entry, result = self._cache.find(spec, key)
        client.tell("cache", {"action": "restore", "name": None, "wanted": key, **asdict(result)})
        if entry is None:
            return {"ok": False}
        address = self._uploads.address(client, "cache", entry.blob)
        return {"ok": True, "signed_download_url": address, "matched_key": entry.key}

    def open(self, blob: str) -> IO[bytes]:
        """Open an entry's archive, which `find` has named."""
        assert self._cache is not None
        return self._cache.open(blob)

    def _secret_in(self, upload: Upload) -> str | None:
        """Return the name of a secret in an archive; the toolkit packs by zstd or gzip."""
        if not self._masker.active:
            return None
        with upload.file.open("rb") as packed:
            start = packed.read(4)
            packed.seek(0)
            unpacked: Content = packed
            if start == b"\x28\xb5\x2f\xfd":
                unpacker = zstandard.ZstdDecompressor(max_window_size=_SPARE)
                unpacked = unpacker.stream_reader(packed, read_across_frames=True)
            elif start.startswith(b"\x1f\x8b"):
                unpacked = gzip.GzipFile(fileobj=packed)
            try:
                return self._masker.found_in(unpacked.read)
            except (zstandard.ZstdError, zlib.error, OSError, EOFError) as error:
                raise Refused(400, "invalid_argument", f"the archive is damaged: {error}") from error


def number_of(name: str) -> int:
    """Return a number for something with a name, as GitHub gives everything one; exact in JavaScript too."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:6], "big")


def _key(request: Message) -> str:
    key = text(request, "key")
    if not key or len(key) > _LONGEST_KEY or "," in key:
        raise Refused(400, "invalid_argument", f"a key has 1 to {_LONGEST_KEY} characters, without commas")
    return key


def _spec(version: str, fallback_keys: tuple[str, ...] = ()) -> Spec:
    return Spec(paths=(f"(action's cache, version {version})",), fallback_keys=fallback_keys)
