"""Control characters and sequences in untrusted text: removed from all displayed text, ignored by the masker.

Both uses share one definition, for text and bytes: otherwise a colour sequence inside a secret could hide it from the
masker while the screen shows it whole. The masker, error messages and every renderer import this module, so it imports
none of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache


def _sequences(c1: str, content: str, *, strings: bool = True) -> tuple[str, str]:
    """Build patterns for whole sequences that begin with ESC or with a C1 control.

    `c1` formats a set of C1 controls; `content` is a character inside a string sequence. A terminated string sequence
    (title, clipboard, hyperlink) is matched with its content, an unterminated one without. Content ends where another
    sequence may begin, so the search is linear. Each alternative begins with a literal character if `c1` does, which
    makes `re` several times faster.
    """
    csi, string, end, every = (c1.format(some) for some in (r"\x9b", r"\x90\x98\x9d-\x9f", r"\x9c", r"\x80-\x9f"))
    rest = rf"{content}*(?:\x07|\x1b\\|{end})|"
    whole = f"{string}{rest}" if strings else ""
    escape = rf"\x1b(?:{rf'[]PX^_]{rest}' if strings else ''}\[[0-?]*[ -/]*[@-~]|[ -/]+[0-~]|[0-~])"
    return escape, rf"{whole}{csi}[0-?]*[ -/]*[@-~]|{every}"


_DIRECTIONS = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_SEPARATORS = "\u2028\u2029"
_ESCAPE, _C1 = _sequences("[{}]", r"[^\x00-\x08\x0a-\x1f\x7f-\x9f]")
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
_UNWANTED = re.compile(rf"{_ESCAPE}|{_C1}|[\x00-\x08\x0b-\x1f\x7f]|[{_DIRECTIONS}{_SEPARATORS}]")
_CONTENT = r"(?:[^\x00-\x08\x0a-\x1f\x7f\xc2]|\xc2[^\x80-\x9f])"
_INVISIBLE = r"\xd8\x9c|\xe2\x80[\x8b-\x8f\xa8-\xae]|\xe2\x81[\xa0-\xaf]|\xef\xbb\xbf|\xf3\xa0[\x80\x81][\x80-\xbf]"


@cache
def ignored(*, in_ascii: bool, strings: bool = True) -> re.Pattern[bytes]:
    """Return a pattern of sequences, C1 controls and invisible characters in UTF-8, without single C0 controls.

    Without `strings`, the content of string sequences is kept, because it may hold a secret. `in_ascii` is faster.
    """
    escape, c1 = _sequences(r"\xc2[{}]", _CONTENT, strings=strings)
    return re.compile((escape if in_ascii else f"{escape}|{c1}|{_INVISIBLE}").encode("ascii"))


def _unmasked(text: str) -> str:
    return text


hide: Callable[[str], str] = _unmasked
"""Masks the secrets known to this process; `util.masking` sets it."""

_RESETS = ("\x1b[0m", "\x1b[m")
_NOT_IN_JSON = re.compile(rf"[\x7f-\x9f\ud800-\udfff{_DIRECTIONS}{_SEPARATORS}]")
_COMMAND = re.compile(r"^(\s*)(?=::)|(?<=##)(?=\[)", re.MULTILINE)


def cleaned(text: str, *, colours: bool = False, mark: str = "") -> str:
    """Remove control sequences and controls (except tab and line end) for a terminal, a log or a page.

    `mark` replaces them. Invisible characters that change text direction appear as `<U+202E>`. With `colours`, colour
    sequences (SGR) are kept and reset at the end.
    """
    if text.isprintable():
        return text
    last = ""

    def instead(match: re.Match[str]) -> str:
        nonlocal last
        found = match[0]
        if colours and _COLOUR.fullmatch(found):
            last = found
            return found
        return f"<U+{ord(found):04X}>" if len(found) == 1 and ord(found) > 0x9F else mark

    result = _UNWANTED.sub(instead, text)
    return f"{result}\x1b[0m" if last and last not in _RESETS else result


def visible(text: str, *, colours: bool = False) -> str:
    """Clean a line of output; reduce a progress bar to its last state."""
    if text.isprintable():
        return text
    return cleaned(text.rstrip("\r").rpartition("\r")[2], colours=colours)


def shown(text: str) -> str:
    """Clean and mask a name or message for display; U+FFFD marks removed characters."""
    return hide(cleaned(text, mark="\ufffd"))


def json_shown(text: str) -> str:
    """Encode a JSON document without terminal controls and invalid text; the content is the same."""
    return text if text.isascii() else _NOT_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def escape_commands(text: str) -> str:
    """Escape lines of `text` that the calling CI system would execute as commands (`::error::`, `##[group]`)."""
    return _COMMAND.sub(lambda match: f"{match[0]}| " if match[1] is not None else " ", text)
