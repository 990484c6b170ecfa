"""Control characters and sequences in text that others wrote: taken out of all that is shown, and looked through by the masker.

One definition for both, in text and in bytes: a secret with a colour in its middle would else be found by neither, and
appear whole on the screen. This module is below everything, since the masker, error messages and every renderer need it.
"""

from __future__ import annotations

import re
from collections.abc import Callable


def _sequences(c1: str, content: str, *, strings: bool = True) -> str:
    """A pattern for whole sequences; `c1` formats a set of C1 controls, `content` is a character inside a string sequence.

    A string sequence (title, clipboard, hyperlink) goes with its content when it is terminated, else its beginning alone goes.
    Content stops where another sequence may begin, so that the search stays linear.
    """
    csi, string, end, every = (c1.format(some) for some in (r"\x9b", r"\x90\x98\x9d-\x9f", r"\x9c", r"\x80-\x9f"))
    rest = rf"{content}*(?:\x07|\x1b\\|{end})|"
    whole = rf"\x1b[\]PX^_]{rest}{string}{rest}" if strings else ""
    arguments = r"[0-?]*[ -/]*[@-~]|"
    return rf"{whole}\x1b\[{arguments}{csi}{arguments}\x1b[ -/]+[0-~]|\x1b[0-~]|{every}"


_DIRECTIONS = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_SEPARATORS = "\u2028\u2029"
_OF_TEXT = _sequences("[{}]", r"[^\x00-\x08\x0a-\x1f\x7f-\x9f]")
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
_UNWANTED = re.compile(rf"{_OF_TEXT}|[\x00-\x08\x0b-\x1f\x7f]|[{_DIRECTIONS}{_SEPARATORS}]")
_CONTENT = r"(?:[^\x00-\x08\x0a-\x1f\x7f\xc2]|\xc2[^\x80-\x9f])"
_INVISIBLE = r"\xd8\x9c|\xe2\x80[\x8b-\x8f\xa8-\xae]|\xe2\x81[\xa0-\xaf]|\xef\xbb\xbf|\xf3\xa0[\x80\x81][\x80-\xbf]"

_C1 = r"\xc2[{}]"

IGNORED = f"{_sequences(_C1, _CONTENT)}|{_INVISIBLE}".encode("ascii")
"""A pattern for bytes in UTF-8: sequences, C1 controls and invisible characters. Single C0 controls are not in it."""
IGNORED_BUT_STRINGS = f"{_sequences(_C1, _CONTENT, strings=False)}|{_INVISIBLE}".encode("ascii")
"""The same, but the content of string sequences stays: there may be something in it too."""
STRING = rb"\x1b[\]PX^_]|\xc2[\x90\x98\x9d-\x9f]"

hide: Callable[[str], str] = str
"""Masks the secrets that this process knows; a run sets it."""


def cleaned(text: str, *, colours: bool = False, mark: str = "") -> str:
    """`text` fit for a terminal, a log or a page: without control sequences and controls (but tab and line end).

    `mark` takes their place. Invisible characters that change the direction of text show as `<U+202E>`. With `colours`, colours
    and the like (SGR) stay, and end with the text.
    """
    if text.isprintable():
        return text
    coloured = False

    def instead(match: re.Match[str]) -> str:
        nonlocal coloured
        found = match[0]
        if colours and _COLOUR.fullmatch(found):
            coloured = True
            return found
        return f"<U+{ord(found):04X}>" if len(found) == 1 and ord(found) > 0x9F else mark

    result = _UNWANTED.sub(instead, text)
    return f"{result}\x1b[0m" if coloured else result


def visible(text: str, *, colours: bool = False) -> str:
    """The same for a line of output: of a progress bar its last state."""
    return cleaned(text.rstrip("\r").rpartition("\r")[2], colours=colours)


def shown(text: str, *, colours: bool = False, mark: str = "") -> str:
    """What is no part of a record (where it was masked already) as it may be shown: cleaned, then masked."""
    return hide(cleaned(text, colours=colours, mark=mark))
