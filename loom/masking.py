"""Secrets never reach disk or screen: their values, and what common tools make of them, become `[REDACTED:SECRET_<NAME>]`.

What is found for a value (docs/guides/secrets.md lists it for users):

- the value as it is, or with any of its special characters URL-encoded, JSON-escaped (also JSON in JSON), quoted as a
  shell prints it, or as an XML entity;
- of a value of several lines each line of four characters or more, and the whole where its line ends are escaped;
- its base64, standard and URL-safe, at all three alignments (a value in the middle of a longer text), also in the lines
  that `base64` (76) and `openssl` (64) break it into;
- its hexadecimal form, lower and upper case.

No form holds a raw line end, so a whole line can always be decided on its own.
"""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import IO

from msgspec import Struct

from loom.errors import SecretError

SHORTEST = 4
"""Characters. Anything shorter would turn ordinary words into noise, and the noise would give the value away."""

LONGEST = 64 * 1024
"""Bytes. Beyond that a value is no secret to look for in every line."""

_CHUNK = 1 << 20
_BASE64_TAIL = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_")
_NEVER_ESCAPED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_NAMED_ESCAPES = {"\n": b"n", "\t": b"t", "\r": b"r", "\b": b"b", "\f": b"f"}
_SPELLED = {
    " ": (b"+",),
    "'": (b"'\\''", b"'\"'\"'", b"&apos;", b"&#39;", b"&#039;", b"&#x27;", b"&#x0027;"),
    '"': (b"&quot;", b"&#34;", b"&#x22;"),
    "&": (b"&amp;", b"&#38;"),
    "<": (b"&lt;",),
    ">": (b"&gt;",),
    "\n": (b"\\012", b"&#10;", b"&#xA;"),
}
_BACKSLASHES = rb"\\{1,7}"  # JSON in JSON in JSON writes seven before a quote
_MOST_BACKSLASHES = 7


class _Spelling(Struct, frozen=True):
    """One way to write one character: its parts one after the other; `escaped` puts one to seven backslashes before each."""

    parts: tuple[bytes, ...]
    escaped: bool = False

    @property
    def longest(self) -> int:
        return sum(map(len, self.parts)) + (_MOST_BACKSLASHES * len(self.parts) if self.escaped else 0)

    @property
    def pattern(self) -> bytes:
        lead = _BACKSLASHES if self.escaped else b""
        return b"".join(lead + re.escape(part) for part in self.parts)

    @property
    def cut_off(self) -> Iterator[bytes]:
        """Patterns for this spelling broken off at the end of what has arrived."""
        lead, before = (_BACKSLASHES if self.escaped else b""), b""
        for part in self.parts:
            for length in range(len(part)):
                if lead or before or length:
                    yield before + lead + re.escape(part[:length]) + rb"\Z"
            before += lead + re.escape(part)
            if part is not self.parts[-1]:
                yield before + rb"\Z"


_BACKSLASH = _Spelling((b"\\",))
_Element = tuple[_Spelling, ...]


def _spellings(character: str, encoded: bytes) -> _Element:
    """How one character of a value may come out, longest first (so that nothing of it is left over)."""
    plain = _Spelling((encoded,))
    if character in _NEVER_ESCAPED:
        return (plain,)
    found = {plain} if character != "\n" else set()
    found |= {_Spelling((b"".join(form % byte for byte in encoded),)) for form in (b"%%%02X", b"%%%02x")}
    codes = [(b"x%02x" % byte) for byte in encoded]
    found |= {_Spelling(tuple(codes), escaped=True)}
    if len(character) == 1:
        utf16 = character.encode("utf-16-be")
        units = [int.from_bytes(utf16[at : at + 2]) for at in range(0, len(utf16), 2)]
        found |= {_Spelling(tuple(form % unit for unit in units), escaped=True) for form in (b"u%04x", b"u%04X")}
    if len(encoded) == 1 and 0x20 <= encoded[0] < 0x7F:
        found.add(_Spelling((encoded,), escaped=True))
    if character in _NAMED_ESCAPES:
        found.add(_Spelling((_NAMED_ESCAPES[character],), escaped=True))
    found |= {_Spelling((text,)) for text in _SPELLED.get(character, ())}
    return tuple(sorted(found, key=lambda spelling: (-spelling.longest, spelling.parts)))


def _elements(value: bytes) -> list[_Element]:
    try:
        characters = [(character, character.encode()) for character in value.decode()]
    except UnicodeDecodeError:
        # Not text: only ASCII has spellings of its own, other bytes at most `%XX` and `\xNN`.
        characters = [(chr(byte) if byte < 0x80 else f"\\x{byte:02x}", bytes([byte])) for byte in value]
    return [_spellings(character, encoded) for character, encoded in characters]


class _Literal(Struct, frozen=True, eq=False):
    """A form that has one spelling. `mixed`: its last base64 digit depends on what follows, and is taken along."""

    name: str
    text: bytes
    mixed: bool = False

    @property
    def longest(self) -> int:
        return len(self.text) + (3 if self.mixed else 0)

    def spans(self, data: bytes) -> Iterator[tuple[int, int]]:
        at = data.find(self.text)
        while at >= 0:
            end = at + len(self.text)
            if self.mixed:
                if end < len(data) and data[end] in _BASE64_TAIL:
                    end += 1
                for _ in range(2):
                    end += data[end : end + 1] == b"="
            yield at, end
            at = data.find(self.text, at + 1)

    @property
    def begins(self) -> bytes:
        return _begins([(_Spelling((self.text[at : at + 1],)),) for at in range(SHORTEST)])


class _Spelled(Struct, frozen=True, eq=False, dict=True):
    """A form whose characters each have several spellings; `anchor` is a part that has only one."""

    name: str
    elements: tuple[_Element, ...]
    anchor: bytes

    @property
    def longest(self) -> int:
        return sum(element[0].longest for element in self.elements)

    def spans(self, data: bytes) -> Iterator[tuple[int, int]]:
        if self.anchor not in data:
            return
        match = self._pattern.search(data)
        while match is not None:
            yield match.span()
            match = self._pattern.search(data, match.start() + 1)

    @cached_property
    def _pattern(self) -> re.Pattern[bytes]:
        parts: list[bytes] = []
        run = 0
        for element in (*self.elements, None):
            if element is not None and _BACKSLASH in element:
                run += 1
                continue
            if run:
                # Each may have been doubled three times over; one element for all keeps the search linear.
                parts.append(rb"(?:\\{%d,%d}|%s)" % (run, 8 * run, b"%5[cC]" * run))
                run = 0
            if element is not None:
                parts.append(_alternatives(element))
        return re.compile(b"".join(parts), re.DOTALL)

    @property
    def begins(self) -> bytes:
        return _begins(self.elements[:SHORTEST])


_Form = _Literal | _Spelled


def _alternatives(element: _Element) -> bytes:
    if len(element) == 1:
        return element[0].pattern
    return b"(?:" + b"|".join(spelling.pattern for spelling in element) + b")"


def _begins(elements: list[_Element] | tuple[_Element, ...]) -> bytes:
    """A pattern for the first few characters of a form, or for fewer right at the end of what has arrived."""
    pattern = b""
    for element in reversed(elements):
        whole = b"(?:" + b"|".join(spelling.pattern for spelling in element) + b")"
        after = b"(?:" + rb"\Z|" + pattern + b")" if pattern else b""
        cut_off = b"".join(b"|" + part for spelling in element for part in spelling.cut_off)
        pattern = b"(?:" + whole + after + cut_off + b")"
    return pattern


def _text_form(name: str, value: bytes) -> _Form:
    elements = _elements(value)
    runs, run = [b""], b""
    for element in elements:
        if len(element) == 1:
            run += b"".join(element[0].parts)
        else:
            runs.append(run)
            run = b""
    if len(run) == len(value):
        return _Literal(name, value)
    return _Spelled(name, tuple(elements), max((*runs, run), key=len))


def _base64_forms(name: str, value: bytes) -> Iterator[_Form]:
    """At each alignment the digits that the value alone decides; those at its ends share bits with their neighbours."""
    for before in range(3):
        digits = base64.b64encode(bytes(before) + value).rstrip(b"=")
        mixed = (before + len(value)) % 3 != 0
        decided = digits[(0, 2, 3)[before] : len(digits) - mixed]
        for text in {decided, decided.translate(bytes.maketrans(b"+/", b"-_"))}:
            yield _Literal(name, text, mixed)
            for width in (64, 76) if before == 0 else ():
                rows = [text[at : at + width] for at in range(0, len(text), width)]
                for row in rows if len(rows) > 1 else ():
                    if len(row) >= SHORTEST:
                        yield _Literal(name, row, mixed and row is rows[-1])


def _forms(name: str, value: bytes) -> tuple[_Form, ...]:
    bare = value.strip()
    lines = [line.strip() for line in bare.split(b"\n")]
    found: list[_Form] = [_text_form(name, line) for line in lines if len(line) >= SHORTEST]
    if len(lines) > 1:
        found.append(_text_form(name, bare))
    found.extend(_base64_forms(name, bare))
    found.extend(_Literal(name, text) for text in {bare.hex().encode(), bare.hex().upper().encode()})
    return tuple(found)


class _Rules(Struct, frozen=True, kw_only=True, eq=False, dict=True):
    """All forms of all secrets; replaced whole when a secret is added, so that readers need no lock."""

    forms: tuple[_Form, ...] = ()
    longest: int = 0

    @cached_property
    def begins(self) -> re.Pattern[bytes]:
        return re.compile(b"|".join(dict.fromkeys(form.begins for form in self.forms)), re.DOTALL)

    def spans(self, data: bytes) -> list[tuple[int, int, str]]:
        """Where something is to be hidden: in order, apart from each other; what overlaps goes as one."""
        found = [(start, end, form.name) for form in self.forms for start, end in form.spans(data)]
        if len(found) < 2:
            return found
        found.sort(key=lambda span: (span[0], -span[1]))
        merged = [found[0]]
        for start, end, name in found[1:]:
            last_start, last_end, last_name = merged[-1]
            if start < last_end:
                merged[-1] = (last_start, max(end, last_end), last_name)
            else:
                merged.append((start, end, name))
        return merged


class Masker:
    """Hides secrets in text. Thread-safe; secrets may be added at any time and hold for what is masked afterwards."""

    def __init__(self, secrets: Mapping[str, str | bytes] | None = None) -> None:
        self._lock = threading.Lock()
        self._values: dict[tuple[str, bytes], tuple[_Form, ...]] = {}
        self._rules = _Rules()
        for name, value in (secrets or {}).items():
            self.add(name, value)

    def add(self, name: str, value: str | bytes) -> None:
        """SecretError for a value that can't be hidden (under four characters, over 64 KiB)."""
        data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
        _check(name, data)
        forms = _forms(name, data)
        with self._lock:
            self._values[(name, data)] = forms
            every = [form for some in self._values.values() for form in some]
            self._rules = _Rules(forms=tuple(_distinct(every)), longest=max(form.longest for form in every))

    @property
    def active(self) -> bool:
        """False when there is nothing to hide: callers may then skip masking altogether."""
        return bool(self._rules.forms)

    @property
    def longest(self) -> int:
        """Bytes of the longest form: what a stream has to hold back at most is one less."""
        return self._rules.longest

    def mask_bytes(self, data: bytes) -> bytes:
        """A whole text (a line, a document); `data` itself when there is nothing to hide in it."""
        spans = self._rules.spans(data)
        return _replaced(data, spans) if spans else data

    def mask(self, text: str) -> str:
        if not self._rules.forms:
            return text
        data = text.encode("utf-8", "surrogatepass")
        masked = self.mask_bytes(data)
        if masked is data:
            return text
        try:
            return masked.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:  # a secret that is not text was cut out of a character's bytes
            return masked.decode("utf-8", "replace")

    def stream(self) -> StreamMasker:
        return StreamMasker(self)

    def found_in(self, file: IO[bytes]) -> str | None:
        """The name of a secret that a file holds in any form, None when it holds none."""
        rules, kept = self._rules, b""
        while rules.forms and (chunk := file.read(_CHUNK)):
            data = kept + chunk
            for form in rules.forms:
                if next(form.spans(data), None) is not None:
                    return form.name
            kept = data[max(len(data) - rules.longest + 1, 0) :]
        return None


class StreamMasker:
    """Masks one stream that arrives in chunks cut anywhere; the outcome is that of masking the whole at once.

    What might be the beginning of a secret is held back until more arrives, never over a line end and never more than
    `Masker.longest - 1` bytes. `flush` at the end, or when the stream has been silent for a while.
    """

    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._held = b""
        self._hidden = 0  # so many bytes at the start of what is held are told already, as part of the last secret

    @property
    def pending(self) -> bool:
        return bool(self._held)

    def feed(self, data: bytes) -> bytes:
        """What may be shown now."""
        rules = self._masker._rules
        if not rules.forms and not self._held:
            return data
        data = self._held + data
        if not rules.forms:
            return self._give(data, [], len(data))
        # A form that starts before `decided` has arrived whole, if it is one.
        decided = max(len(data) - rules.longest + 1, data.rfind(b"\n") + 1, 0)
        match = rules.begins.search(data, decided) if decided < len(data) else None
        return self._give(data, rules.spans(data), match.start() if match else len(data))

    def flush(self) -> bytes:
        """The rest, masked as far as it came."""
        return self._give(self._held, self._masker._rules.spans(self._held), len(self._held))

    def _give(self, data: bytes, spans: list[tuple[int, int, str]], until: int) -> bytes:
        hidden, self._hidden, self._held = self._hidden, 0, data[until:]
        if not spans and not hidden:
            return data if until == len(data) else data[:until]
        out: list[bytes] = []
        at = hidden
        for start, end, name in spans:
            if start >= until:
                break
            if start >= at:
                out.append(data[at:start])
            if start >= hidden:
                out.append(_label(name))
            at = max(at, end)
        if at > until:
            self._hidden = at - until
        else:
            out.append(data[at:until])
        return b"".join(out)


def _label(name: str) -> bytes:
    return f"[REDACTED:SECRET_{name}]".encode()


def _replaced(data: bytes, spans: list[tuple[int, int, str]]) -> bytes:
    out: list[bytes] = []
    at = 0
    for start, end, name in spans:
        out += (data[at:start], _label(name))
        at = end
    out.append(data[at:])
    return b"".join(out)


def _distinct(forms: list[_Form]) -> Iterator[_Form]:
    """Without literal forms that an earlier secret (or line) has too: the first name stays."""
    seen: set[tuple[bytes, bool]] = set()
    for form in forms:
        if isinstance(form, _Literal):
            if (form.text, form.mixed) in seen:
                continue
            seen.add((form.text, form.mixed))
        yield form


def _check(name: str, value: bytes) -> None:
    longest_line = max((len(line.strip().decode("utf-8", "replace")) for line in value.split(b"\n")), default=0)
    if longest_line < SHORTEST:
        raise SecretError(
            f"secret {name}: the value is shorter than {SHORTEST} characters and can't be masked: "
            "every place where it happens to stand would be blacked out, which gives it away (SECRETS_VALUE_TOO_SHORT)",
            hint="Use a longer value, or a plain variable if it is no secret.",
            code="SECRETS_VALUE_TOO_SHORT",
        )
    if len(value) > LONGEST:
        raise SecretError(
            f"secret {name}: the value has {len(value)} bytes, more than the {LONGEST} that loom looks for in all output "
            "(SECRETS_VALUE_TOO_LONG)",
            hint="Keep the large file encrypted in the repository and make its key the secret.",
            code="SECRETS_VALUE_TOO_LONG",
        )
