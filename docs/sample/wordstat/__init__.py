"""Count the words of a text."""

from __future__ import annotations

import re
from collections import Counter

WORD = re.compile(r"[\w']+")


def words(text: str) -> list[str]:
    """The words of `text` in order, lower-cased."""
    return [word.lower() for word in WORD.findall(text)]


def top(text: str, n: int) -> list[tuple[str, int]]:
    """The `n` most frequent words and how often each occurs; of equals, the one that comes first in the text."""
    return Counter(words(text)).most_common(n)
