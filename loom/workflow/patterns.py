"""Users' regular expressions: Python's syntax, searched with a time limit.

Python's `re` has no time limit; a pattern such as `(a+)+$` can run for hours on forty characters. `re` defines the
syntax, and the library `regex`, which supports it and has a time limit, performs the search.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from loom.values import Immutable

MAX_LENGTH = 1000
MOST_REPEATED = 100_000
"""Parts of a pattern, with each as often as a count in braces says. `regex` crashes at about twice as many."""
MAX_SEARCH_S = 1.0
"""The limit for one value."""
MAX_SEARCHES_S = 10.0
"""The limit for all values of a `Search` together; only searches of more than _USUAL_S count."""
_USUAL_S = 0.0002
FLAGS = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL}


class PatternError(ValueError):
    """An invalid pattern; the message has the reason."""


class SearchError(Exception):
    """A search exceeded MAX_SEARCH_S, or `regex` rejects the pattern; the message names the pattern."""


class Pattern(Immutable):
    written: str
    """As in the workflow: `/pattern/flags`."""
    source: str
    flags: int

    def found_in(self, value: str) -> bool:
        """Search the pattern in a value. Raises SearchError."""
        return self.groups_in(value) is not None

    def groups_in(self, value: str) -> dict[str, str | None] | None:
        """Return the named groups of the first match; None without a match. Raises SearchError."""
        found = Search(self).first_in(value)
        return None if found is None else found.groupdict()


class Search:
    """Looks for a pattern in many values. Each method raises SearchError, also when all searches together take too long."""

    def __init__(self, pattern: Pattern, most_s: float = MAX_SEARCHES_S) -> None:
        import regex  # late: takes 8 ms, and only workflows with patterns need it

        self._written = pattern.written
        self._left_s = self._most_s = most_s
        try:
            self._compiled = regex.compile(pattern.source, pattern.flags)
        except regex.error as error:
            raise SearchError(f"{self._written} is not a valid pattern: {error}") from error

    def first_in(self, value: str) -> re.Match[str] | None:
        return next(self.all_in(value), None)

    def all_in(self, value: str) -> Iterator[re.Match[str]]:
        """Yield the matches, each after the one before."""
        limit_s = min(MAX_SEARCH_S, self._left_s)
        began = time.thread_time()
        try:
            if limit_s > 0:
                yield from self._compiled.finditer(value, timeout=limit_s, concurrent=True)
                return
        except TimeoutError:
            self._left_s -= limit_s
        finally:
            self._left_s -= max(0.0, time.thread_time() - began - _USUAL_S)
        limit = f"{MAX_SEARCH_S:g} s" if self._left_s > 0 else f"{self._most_s:g} s in all"
        raise SearchError(
            f"the search for {self._written} in a value of {len(value)} characters took longer than {limit}; "
            "begin the pattern with ^, or use no repeat inside another, such as (a+)+"
        ) from None


_COUNT = re.compile(r"(?<=(.))\{(\d{1,9})\d*(?:,\d*)?\}", re.DOTALL)
_SPACED = re.compile(r"\(\?(?:#|[A-Za-z]*x)")


def _check_size(source: str) -> None:
    """Raise PatternError for a pattern that takes long to compile: `regex` writes out what counts in braces repeat.

    Whatever is nested: counts of groups are multiplied, and those of characters added.
    """
    if len(source) > MAX_LENGTH:
        raise PatternError(f"the pattern is longer than {MAX_LENGTH} characters")
    groups, parts = 1, len(source)
    spaced = _SPACED.search(source) is not None  # a count need not follow its group at once
    for before, count in _COUNT.findall(source):
        if before == ")" or spaced:
            groups *= max(1, int(count))
        else:
            parts += int(count)
    if groups * parts > MOST_REPEATED:
        raise PatternError(
            f"the counts in braces repeat more than {MOST_REPEATED} parts; write smaller ones, or a star or plus"
        )


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


def pattern_of(source: str, flags: int = 0, written: str | None = None, *, wider: bool = False) -> Pattern:
    """Check a pattern that is written without slashes; `wider`: in the syntax of the searching library. Raises PatternError."""
    _check_size(source)
    engine: Any = re
    if wider:
        import regex  # late: see `Search`

        engine = regex
    try:
        engine.compile(source, flags)
    except (engine.error, OverflowError, RecursionError, ValueError) as error:
        raise PatternError(f"not a pattern: {error}") from error
    return Pattern(written=written or source, source=source, flags=flags)
