"""The forms in which a secret may stand in a text: what tools make of a value, and how the masker looks at a text."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from functools import cache, lru_cache

from loom.util import controls

_WIDEST = 256

_CONTROLS = bytes({*range(0x20), 0x7F} - {0x0A})
_DROPPED = _CONTROLS + b"\\\"'"
_LETTERS = (b"\tt\nn\rr", b"\tt\nn\rr\bb\ff", b"\tt\nn\rr\bb\ff\aa\vv\x1bE")
"""Escapes with a letter (`\\n`) in Python, JSON and shells, as pairs."""
_TO_URL_SAFE = bytes.maketrans(b"+/", b"-_")


@cache
def _escapes() -> re.Pattern[bytes]:
    """Escape sequences for a character. Each alternative begins with a literal, which makes `re` fast."""
    return re.compile(
        rb"%(?:25)*([0-9A-Fa-f]{2})"
        rb"|\\x([0-9A-Fa-f]{2})"
        rb"|\\([0-3][0-7]{2})"
        rb"|\\u([dD][89abAB][0-9A-Fa-f]{2}\\{1,8}u[dD][c-fC-F][0-9A-Fa-f]{2})"
        rb"|\\(?:u([0-9A-Fa-f]{4})|u\{([0-9A-Fa-f]{1,6})\}|U([0-9A-Fa-f]{8}))"
        rb"|&(?:amp;)*(#[0-9]{1,7};|#[xX][0-9A-Fa-f]{1,6};|[A-Za-z]{2,31};)"
    )


@cache
def _leads() -> tuple[re.Pattern[bytes], ...]:
    """Return literals of which every text with an escape contains one. Each begins with a literal, so the search is fast."""
    return tuple(map(re.compile, (rb"%[0-9A-Fa-f]{2}", rb"\\[xuU0-3]", rb"&(?:#|[A-Za-z]{2,31};)")))


def _decoded(match: re.Match[bytes]) -> bytes:
    group = match.lastindex or 0
    return _character(group, match[group])


@lru_cache(4096)
def _character(group: int, text: bytes) -> bytes:
    """Decode an escape sequence. Line ends are ignored like controls, because they would move text to another line."""
    import html

    if group <= 3:
        found = bytes([int(text, 8 if group == 3 else 16)])
    elif group == 4:
        found = bytes.fromhex((text[:4] + text[-4:]).decode()).decode("utf-16-be").encode()
    elif group == 8:
        found = html.unescape(f"&{text.decode()}").encode("utf-8", "surrogatepass")
    else:
        code = int(text, 16)
        found = chr(code).encode("utf-8", "surrogatepass") if code <= 0x10FFFF else b""
    return found.replace(b"\n", b"")


How = tuple[re.Pattern[bytes] | None, re.Pattern[bytes] | None]
"""The way to make a view: the sequences to remove with the controls, then the decoder, if any."""


def views(data: bytes) -> Iterator[tuple[bytes, How]]:
    """Yield the views of a text, in the order in which `shown` and readers undo escapes.

    The raw text is a view too when it has sequences: a sequence may swallow a value's first character.
    """
    bases: list[tuple[bytes, re.Pattern[bytes] | None]] = [(data, None)]
    in_ascii = data.isascii()
    if b"\x1b" in data or not in_ascii:
        ignored = controls.ignored(in_ascii=in_ascii)
        cleaned, count = ignored.subn(b"", data)
        if count:
            bases.append((cleaned, ignored))
            ignored = controls.ignored(in_ascii=in_ascii, strings=False)
            with_strings = ignored.sub(b"", data)
            if len(with_strings) != len(cleaned):
                bases.append((with_strings, ignored))
    for text, how in bases:
        cleaned = text.translate(None, _CONTROLS)
        yield cleaned.translate(None, _DROPPED), (how, None)
        if any(lead.search(cleaned) for lead in _leads()):
            decoded, count = _escapes().subn(_decoded, cleaned)
            if count:
                yield decoded.translate(None, _DROPPED), (how, _escapes())


def origins(data: bytes, how: How) -> tuple[list[int], list[int]]:
    """Return, for each byte of a view, the start and end of its source in `data`."""
    ignored, decoding = how
    text, starts, ends = _step(data, ignored, lambda _: b"", _CONTROLS)
    _, inner_starts, inner_ends = _step(text, decoding, _decoded, _DROPPED)
    return [starts[at] for at in inner_starts], [ends[at - 1] for at in inner_ends]


def _step(
    data: bytes, pattern: re.Pattern[bytes] | None, instead: Callable[[re.Match[bytes]], bytes], dropped: bytes
) -> tuple[bytes, list[int], list[int]]:
    """Replace matches in `data` and drop bytes; return the result with the source position of each byte."""
    starts: list[int] = []
    ends: list[int] = []
    parts: list[bytes] = []
    at = 0

    def copy(until: int) -> None:
        kept = [at for at, byte in zip(range(at, until), data[at:until], strict=True) if byte not in dropped]
        parts.append(data[at:until].translate(None, dropped))
        starts.extend(kept)
        ends.extend(at + 1 for at in kept)

    for match in pattern.finditer(data) if pattern else ():
        copy(match.start())
        found = instead(match).translate(None, dropped)
        parts.append(found)
        starts.extend([match.start()] * len(found))
        ends.extend([match.end()] * len(found))
        at = match.end()
    copy(len(data))
    return b"".join(parts), starts, ends


def _rows(text: bytes, width: int = _WIDEST) -> Iterator[bytes]:
    """Split `text` into rows, with its end also as a full row, so that a short last row is hidden even when rows run
    together.
    """
    for at in range(0, len(text), width):
        yield text[at : at + width]
    if len(text) > width:
        yield text[-width:]


def _spelled(text: bytes) -> Iterator[bytes]:
    """Return a line (or a multi-line value on one line) in the form of the views."""
    written = [text, text.replace(b" ", b"+")]
    for pairs in _LETTERS:
        for control, letter in zip(pairs[::2], pairs[1::2], strict=True):
            text = text.replace(bytes([control]), bytes([letter]))
        written.append(text)
    for form in dict.fromkeys(written):
        for view, _ in views(form.replace(b"\n", b"")):
            yield view


def pieces_of(value: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yield each piece of a value, and whether it covers only part of the next base64 digit."""
    bare = value.strip()
    lines = [line.strip() for line in bare.split(b"\n")]
    for line in [*lines, *([bare] if len(lines) > 1 else [])]:
        for text in dict.fromkeys(_spelled(line)):
            yield from ((row, False) for row in _rows(text))
    digits = bare.hex().encode()
    for text in (digits, digits.upper()):
        yield from ((row, False) for row in _rows(text, 60))  # the row length of `xxd -p`
    for before in range(3):
        # At each alignment, the digits that depend on the value alone; the outer ones share bits with their neighbours.
        mixed = (before + len(bare)) % 3 != 0
        digits = b64encode(bytes(before) + bare).rstrip(b"=")
        digits = digits[(0, 2, 3)[before] : len(digits) - mixed]
        for text in dict.fromkeys((digits, digits.translate(_TO_URL_SAFE))):
            for width in (64, 76) if before == 0 else (_WIDEST,):
                yield from ((row, mixed and text.endswith(row)) for row in _rows(text, width))
