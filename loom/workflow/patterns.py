"""Users' regular expressions: Python's syntax, searched with a time limit.

Python's `re` has no time limit; a pattern such as `(a+)+$` can run for hours on forty characters. `re` defines the
syntax, and the library `regex`, which supports it and has a time limit, performs the search.
"""

from __future__ import annotations

import re
from functools import lru_cache

from msgspec import Struct

MAX_LENGTH = 1000
MAX_SEARCH_S = 1.0
FLAGS = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL}


class PatternError(ValueError):
    """An invalid pattern; the message has the reason."""


class SearchError(Exception):
    """A search exceeded MAX_SEARCH_S, or `regex` rejects the pattern; the message names the pattern."""


class Pattern(Struct, frozen=True, kw_only=True):
    written: str
    """As in the workflow: `/pattern/flags`."""
    source: str
    flags: int

    def found_in(self, value: str) -> bool:
        """Search the pattern in a value. Raises SearchError."""
        return self.groups_in(value) is not None

    def groups_in(self, value: str) -> dict[str, str | None] | None:
        """Return the named groups of the first match; None without a match. Raises SearchError."""
        import regex  # late: takes 8 ms, and only workflows with patterns need it

        try:
            compiled = regex.compile(self.source, self.flags)
            match = compiled.search(value, timeout=MAX_SEARCH_S, concurrent=True)
            return None if match is None else match.groupdict()
        except TimeoutError:
            raise SearchError(
                f"the search for {self.written} in a value of {len(value)} characters took longer than {MAX_SEARCH_S:g} s; "
                "begin the pattern with ^, or use no repeat inside another, such as (a+)+"
            ) from None
        except regex.error as error:
            raise SearchError(f"{self.written} is not a valid pattern: {error}") from error


def pattern_for_search(written: str, source: str, flags: int) -> Pattern:
    """Check a pattern in the syntax of the library that searches, which is wider than Python's. Raises PatternError."""
    import regex  # late: see `groups_in`

    if len(source) > MAX_LENGTH:
        raise PatternError(f"the pattern is longer than {MAX_LENGTH} characters")
    try:
        regex.compile(source, flags)
    except (regex.error, OverflowError, RecursionError, ValueError) as error:
        raise PatternError(f"not a pattern: {error}") from error
    return Pattern(written=written, source=source, flags=flags)


@lru_cache(maxsize=256)
def compile_pattern(written: str) -> Pattern:
    """Parse `/pattern/flags`. Raises PatternError."""
    source, _, letters = written[1:].rpartition("/")
    flags = re.RegexFlag(0)
    for letter in letters:
        if letter not in FLAGS:
            raise PatternError(f"unknown pattern flag {letter}; the flags are i, m and s")
        flags |= FLAGS[letter]
    return pattern_of(source.replace("\\/", "/"), int(flags), written)


def pattern_of(source: str, flags: int = 0, written: str | None = None) -> Pattern:
    """Check a pattern that is written without slashes. Raises PatternError."""
    if len(source) > MAX_LENGTH:
        raise PatternError(f"the pattern is longer than {MAX_LENGTH} characters")
    try:
        re.compile(source, flags)
    except (re.error, OverflowError, RecursionError) as error:
        raise PatternError(f"not a pattern: {error}") from error
    return Pattern(written=written or source, source=source, flags=flags)
