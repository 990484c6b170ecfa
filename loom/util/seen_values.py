"""Secrets that a run has seen, so that a later command finds their values without having them.

Of each piece of a value (`secret_forms`), a line holds the length, a keyed hash, and a few bytes to look for first. Those are
encrypted with the same key, which is in a file of the user's own: whoever has the lines alone learns the lengths.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from loom.util import typed
from loom.util.masking import SHORTEST, Masker, SecretRules, Span
from loom.util.private import make_private
from loom.util.secret_forms import pieces_of
from loom.util.untrusted_files import read_regular
from loom.values import Immutable

if TYPE_CHECKING:
    from ahocorasick_rs import BytesAhoCorasick

_USUAL = 8
"""Shorter pieces of a longer value are in too many texts."""


class SeenPiece(Struct, frozen=True, array_like=True):
    length: int
    at: int
    """The position of the bytes to look for."""
    sought: bytes
    """Encrypted."""
    digest: bytes


class SeenValue(Immutable):
    name: str
    ref: str
    pieces: tuple[SeenPiece, ...]
    whole: str = ""
    """A keyed hash of the whole value, by which another run knows whether it has changed."""


def key_in(directory: Path) -> bytes:
    """Return the key in a private directory; make it if it is missing. OSError on failure."""
    file = directory / "secrets.key"
    with suppress(FileNotFoundError):
        return read_regular(file, at_most=32)
    make_private(directory)
    draft = directory / f".secrets.key.{secrets.token_hex(8)}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(secrets.token_bytes(32))
    with suppress(FileExistsError):  # another process was faster: its key counts
        os.link(draft, file)
    draft.unlink()
    return read_regular(file, at_most=32)


def seen(name: str, ref: str, value: bytes, key: bytes) -> SeenValue:
    least = max(SHORTEST, min(_USUAL, len(value.strip())))
    pieces = {piece for piece, _ in pieces_of(value) if len(piece) >= least}
    whole = whole_digest(value, key)
    return SeenValue(name=name, ref=ref, pieces=tuple(_piece(piece, key) for piece in sorted(pieces)), whole=whole)


def whole_digest(value: bytes, key: bytes) -> str:
    return blake2b(value, key=key, digest_size=20, person=b"loom value").hexdigest()


def _piece(piece: bytes, key: bytes) -> SeenPiece:
    size = max(3, min(6, len(piece) // 4))
    places = range(len(piece) - size + 1)
    # Bytes that few texts have next to each other: not small letters and spaces.
    at = max(
        places, key=lambda place: sum(not (byte == 32 or 97 <= byte <= 122) for byte in piece[place : place + size])
    )
    digest = _digest(piece, key)
    return SeenPiece(len(piece), at, _crypted(piece[at : at + size], digest, key), digest)


def _digest(piece: bytes, key: bytes) -> bytes:
    return blake2b(piece, key=key, digest_size=16).digest()


def _crypted(sought: bytes, digest: bytes, key: bytes) -> bytes:
    pad = blake2b(digest, key=key, person=b"loom sought").digest()
    return bytes(one ^ two for one, two in zip(sought, pad, strict=False))


class SeenFile(Struct):
    """The file of what one run sees; `directory` has the key."""

    file: Path
    directory: Path
    _noted: set[tuple[str, bytes]] = set()

    def note(self, name: str, ref: str, value: bytes) -> None:
        """Add a line, once for each value; none without a record, or where that can't be written."""
        if (ref, value) in self._noted or not self.file.parent.is_dir():
            return
        self._noted.add((ref, value))
        with suppress(OSError):
            line = msgspec.json.encode(seen(name, ref, value, key_in(self.directory))) + b"\n"
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            with os.fdopen(os.open(self.file, flags, 0o600), "wb") as stream:
                stream.write(line)


def noted(file: Path) -> Iterator[SeenValue]:
    """Yield the values of a file; none where it is missing, and none of a damaged line."""
    with suppress(FileNotFoundError):
        for line in read_regular(file).splitlines():
            with suppress(msgspec.DecodeError):
                yield typed.decode(line, SeenValue)


class _SeenRules(SecretRules, frozen=True, eq=False):
    names: Mapping[bytes, str]
    """By digest."""
    places: list[set[tuple[int, int]]]
    """For each sequence of bytes, the positions in pieces and their lengths."""
    sought: BytesAhoCorasick
    key: bytes

    def found(self, view: bytes) -> Iterator[Span]:
        spans = []
        for number, start, _ in self.sought.find_matches_as_indexes(view, overlapping=True):
            for at, length in self.places[number]:
                window = view[max(0, start - at) : start - at + length]
                if len(window) == length and (name := self.names.get(_digest(window, self.key))) is not None:
                    spans.append((start - at, start - at + length, name))
        first, last, owner = 0, 0, ""
        for start, end, name in sorted(spans):
            if owner and start >= last:
                yield first, last, owner
                owner = ""
            first, last, owner = (first, max(last, end), owner) if owner else (start, end, name)
        if owner:
            yield first, last, owner


class SeenMasker(Masker):
    """Finds and hides values that were seen."""

    def __init__(self, values: Iterable[SeenValue], key: bytes) -> None:
        super().__init__()
        pieces = {piece.digest: (value.name, piece) for value in values for piece in value.pieces}
        places: dict[bytes, set[tuple[int, int]]] = {}
        for _, piece in pieces.values():
            places.setdefault(_crypted(piece.sought, piece.digest, key), set()).add((piece.at, piece.length))
        self._seen: SecretRules | None = None
        if places:
            from ahocorasick_rs import BytesAhoCorasick

            names = {digest: name for digest, (name, _) in pieces.items()}
            self._seen = _SeenRules(names, list(places.values()), BytesAhoCorasick(list(places)), key)

    @property
    def rules(self) -> SecretRules | None:
        return self._seen
