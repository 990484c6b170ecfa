"""Secrets never reach disk or screen: their values, and what common tools make of them, become `[REDACTED:SECRET_<NAME>]`.

What is found for a value is in docs/guides/secrets.md. It is found in one pass, by an automaton of literal *pieces*: the value's
lines, its base64 and hexadecimal forms in rows. What tools do to single characters is taken back in the text instead of
being spelled out in the pieces: the text is looked at without controls, quotes and backslashes, and, where it holds escapes,
decoded too (`views`). Views keep line ends, and no piece holds one, so a whole line can always be decided on its own. Only
lines with something in them pay for knowing where each byte of a view came from (`origins`).
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING
from weakref import WeakSet

from msgspec import Struct

from loom.errors import SecretError
from loom.util import controls
from loom.util.secret_forms import origins, pieces_of, views

if TYPE_CHECKING:
    from ahocorasick_rs import BytesAhoCorasick

SHORTEST = 4
"""In characters. Shorter values would redact ordinary words, and the redactions would reveal the value."""

LONGEST = 64 * 1024
"""In bytes. Larger values are too expensive to search for in every line."""

_ANCHOR = 8
"""Minimum prefix of each piece in the automaton; longer while the total stays below `_STATES` bytes. The rest of a
piece is compared directly. Without the limit, a certificate bundle would take 20 MB.
"""
_STATES = 1 << 16
_BLOCK = 1 << 17
_REACH = 1 << 14
"""Maximum length of a match: this much of an unfinished line is held back."""
_MIXED_END = re.compile(rb"[A-Za-z0-9+/_-]?={0,2}")

Span = tuple[int, int, str]


class SecretRules(Struct, frozen=True, eq=False):
    """What is looked for in a text."""

    def found(self, view: bytes) -> Iterator[Span]:
        """Return the positions of pieces; overlapping ones are merged."""
        raise NotImplementedError

    def lines_in(self, data: bytes) -> set[int]:
        """Return the numbers of lines with a match."""
        numbers = set()
        for view, _ in views(data):
            number = at = 0
            for start, _, _ in self.found(view):
                number += view.count(b"\n", at, start)
                numbers.add(number)
                at = start
        return numbers

    def spans(self, line: bytes) -> list[Span]:
        """Return the ranges to hide: ordered, disjoint, overlaps merged."""
        found: list[Span] = []
        for view, how in views(line):
            here = list(self.found(view))
            if here:
                starts, ends = origins(line, how)
                found += [(starts[start], ends[end - 1], name) for start, end, name in here]
        found.sort(key=lambda span: (span[0], -span[1]))
        merged: list[Span] = []
        for start, end, name in found:
            if merged and (start < merged[-1][1] or (start == merged[-1][1] and name == merged[-1][2])):
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]), merged[-1][2])
            else:
                merged.append((start, end, name))
        return merged


class _Pieces(SecretRules, frozen=True, eq=False):
    """All pieces of all secrets. A new secret replaces the whole object, so readers need no lock."""

    pieces: Mapping[bytes, tuple[str, bool]]
    lengths: list[tuple[int, ...]]
    """The pieces for each anchor."""
    anchors: BytesAhoCorasick

    def found(self, view: bytes) -> Iterator[Span]:
        first, last, owner = 0, 0, ""
        for anchor, start, _ in self.anchors.find_matches_as_indexes(view, overlapping=True):
            for length in self.lengths[anchor]:
                end = start + length
                if end <= last and start >= first:
                    continue
                piece = self.pieces.get(view[start:end])
                if piece is None or end > len(view):
                    continue
                name, mixed = piece
                if mixed and (more := _MIXED_END.match(view, end)):
                    end = more.end()
                if owner and (start > last or (start == last and name != owner)):
                    yield first, last, owner
                    first, last, owner = start, end, name
                elif not owner or start <= first:
                    first, last, owner = start, max(last, end), name
                else:
                    last = max(last, end)
        if owner:
            yield first, last, owner


def _rules_of(values: Mapping[tuple[str, bytes], None]) -> _Pieces:
    from ahocorasick_rs import BytesAhoCorasick, Implementation

    pieces: dict[bytes, tuple[str, bool]] = {}
    for name, value in values:
        owners = ((name, False), (name, True))  # share objects (also lengths below): there may be ten thousand pieces
        for piece, mixed in pieces_of(value):
            if len(piece) >= SHORTEST:
                pieces.setdefault(piece, owners[mixed])
    anchor = max(_ANCHOR, _STATES // len(pieces))
    lengths: dict[bytes, set[int]] = {}
    shared: dict[tuple[int, ...], tuple[int, ...]] = {}
    for piece in pieces:
        lengths.setdefault(piece[:anchor], set()).add(len(piece))
    kind = Implementation.ContiguousNFA if len(lengths) > 1000 else None  # the library's default needs more memory
    return _Pieces(
        pieces,
        [shared.setdefault(tuple(some), tuple(some)) for some in lengths.values()],
        BytesAhoCorasick(list(lengths), implementation=kind),
    )


class Masker:
    """Hides secrets in text. Thread-safe; a secret added at any time applies to all later output."""

    def __init__(self, secrets: Mapping[str, str] | Mapping[str, bytes] | None = None) -> None:
        self._lock = threading.Lock()
        self._values: dict[tuple[str, bytes], None] = {}
        self._built: tuple[int, Mapping[tuple[str, bytes], None], SecretRules | None] = (0, {}, None)
        for name, value in (secrets or {}).items():
            self.add(name, value)

    def add(self, name: str, value: str | bytes) -> None:
        """Add a secret. SecretError for a value that can't be hidden (too short, or over 64 KiB)."""
        data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
        _check(name, data)
        self._values[(name, data)] = None
        _changed()

    @property
    def active(self) -> bool:
        """False when there is nothing to hide, so callers can skip masking."""
        return self.rules is not None

    @property
    def rules(self) -> SecretRules | None:
        """Return None when there is nothing to hide."""
        of, before, rules = self._built
        if of != _changes:
            with self._lock:
                of = _changes
                with _knowing:
                    others = list(_known) if self in _known else []
                values = {key: None for one in (self, *others) for key in dict(one._values)}
                if values != before:
                    rules = _rules_of(values) if values else None
                self._built = of, values, rules
        return rules

    def mask_bytes(self, data: bytes) -> bytes:
        """Mask a whole text; return `data` itself when it contains no secret."""
        if not self.active:
            return data
        stream = self.stream()
        masked = stream.feed(data) + stream.flush()
        return data if masked == data else masked

    def mask(self, text: str) -> str:
        if not self.active:
            return text
        data = text.encode("utf-8", "surrogatepass")
        masked = self.mask_bytes(data)
        if masked is data:
            return text
        try:
            return masked.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:  # a binary secret may leave part of a character
            return masked.decode("utf-8", "replace")

    def stream(self) -> StreamMasker:
        return StreamMasker(self)

    def found_in(self, read: Callable[[int], bytes]) -> str | None:
        """Return the name of a secret that a file contains in any form, or None."""
        rules, kept = self.rules, b""
        while rules is not None and (chunk := read(_BLOCK)):
            data = kept + chunk
            for view, _ in views(data):
                for _, _, name in rules.found(view):
                    return name
            kept = data[-_REACH:]
        return None


_changes = 0
"""Counts the secrets that were added, and the maskers that were made known."""
_known: WeakSet[Masker] = WeakSet()
_latest: deque[Masker] = deque(maxlen=8)
"""The last ones stay known when their run has ended: errors that are printed afterwards may hold their secrets."""
_knowing = threading.Lock()


def known(masker: Masker) -> Masker:
    """Make the secrets of a run known to the process: all such maskers, and messages of loom, hide those of all runs.

    A run may begin and end during another one: child pipelines, rounds of `loom watch`, calls of `loom mcp`.
    """
    with _knowing:
        _known.add(masker)
        _latest.append(masker)
    _changed()
    controls.hide = _OF_ALL.mask
    return masker


def _changed() -> None:
    global _changes
    with _knowing:
        _changes += 1


_OF_ALL = Masker()
_known.add(_OF_ALL)


class StreamMasker(Struct):
    """Masks one stream that arrives in arbitrary chunks; the result equals masking it whole.

    Incomplete lines are held back, of lines over 128 KiB only the last 16 KiB. Call `flush` at the end.
    """

    masker: Masker
    _held: list[bytes] = []
    _size: int = 0
    _hidden: int = 0
    """The bytes at the start of the held text that the last secret's label already replaced."""

    @property
    def pending(self) -> bool:
        return self._size > 0

    def feed(self, data: bytes) -> bytes:
        """Add a chunk; return the text that is safe to show."""
        if not self._size and not self.masker.active:
            return data
        return b"".join(self._fed(data[at : at + _BLOCK]) for at in range(0, len(data), _BLOCK))

    def flush(self) -> bytes:
        """Return the masked rest."""
        return self._released(0)

    def _fed(self, data: bytes) -> bytes:
        end = data.rfind(b"\n") + 1
        out = b""
        if end:
            self._hold(data[:end])
            out = self._released(0)
        self._hold(data[end:])
        return out + self._released(_REACH) if self._size >= _BLOCK + _REACH else out

    def _hold(self, data: bytes) -> None:
        if data:
            self._held.append(data)
            self._size += len(data)

    def _released(self, reach: int) -> bytes:
        """Mask the held text; keep `reach` bytes, plus the part of a secret that continues there."""
        data = b"".join(self._held)
        self._held, self._size = [], 0
        rules = self.masker.rules
        if rules is None:
            return data
        if reach:
            return self._line(data, rules, len(data) - reach)
        numbers = rules.lines_in(data)
        if not numbers and not self._hidden:
            return data
        lines = data.split(b"\n")
        for number in sorted(numbers | {0} if self._hidden else numbers):
            lines[number] = self._line(lines[number], rules, len(lines[number]))
        return b"\n".join(lines)

    def _line(self, line: bytes, rules: SecretRules, until: int) -> bytes:
        """Mask `line` up to `until` and hold the rest. Text that a previous label covers gets no second one."""
        out: list[bytes] = []
        hidden = at = self._hidden
        self._hidden = 0
        for start, end, name in rules.spans(line):
            if start >= until:
                break
            if start > hidden or not hidden:
                out += (line[at:start], f"[REDACTED:SECRET_{name}]".encode())
            at = max(at, end)
        if at < until:
            out.append(line[at:until])
        elif at > until:
            self._hidden = at - until
        self._hold(line[until:])
        return b"".join(out)


def _check(name: str, value: bytes) -> None:
    lines = (next(views(line.strip()))[0] for line in value.split(b"\n"))
    if max((len(line.decode("utf-8", "replace")) for line in lines), default=0) < SHORTEST:
        raise SecretError(
            f"secret {name}: the value is shorter than {SHORTEST} characters (quotes, backslashes and controls do not count) "
            "and can't be masked: masking it would redact unrelated text and so reveal it "
            "(SECRETS_VALUE_TOO_SHORT)",
            hint="Use a longer value, or a plain variable if it is not secret.",
            code="SECRETS_VALUE_TOO_SHORT",
        )
    if len(value) > LONGEST:
        raise SecretError(
            f"secret {name}: the value has {len(value)} bytes, more than the masking limit of {LONGEST} "
            "(SECRETS_VALUE_TOO_LONG)",
            hint="Keep the large file encrypted in the repository and make its key the secret.",
            code="SECRETS_VALUE_TOO_LONG",
        )
