"""Durations in words, as GitLab reads them: `30 minutes`, `1h 30m`, `2 weeks and 1 day`, `90` (seconds), `1:30:00`."""

from __future__ import annotations

import re

_UNITS = {
    1: ("", "s", "sec", "secs", "second", "seconds"),
    60: ("m", "min", "mins", "minute", "minutes"),
    3600: ("h", "hr", "hrs", "hour", "hours"),
    86400: ("d", "day", "days"),
    604800: ("w", "wk", "wks", "week", "weeks"),
    30 * 86400: ("mo", "mos", "month", "months"),
    31_557_600: ("y", "yr", "yrs", "year", "years"),
}
_SECONDS = {word: seconds for seconds, words in _UNITS.items() for word in words}
_PART = re.compile(r"\s*([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*([a-z]*)\s*(?:,|\band\b)?")
_CLOCK = re.compile(r"[0-9]{1,6}(?::[0-9]{1,2}){1,2}")


def seconds(text: str) -> float:
    """Parse a duration. ValueError names a valid form."""
    wanted = text.strip().lower()
    if _CLOCK.fullmatch(wanted):
        total = 0
        for digits in wanted.split(":"):
            total = total * 60 + int(digits)
        return float(total)
    found, position = 0.0, 0
    while position < len(wanted):
        part = _PART.match(wanted, position)
        unit = part[2].removesuffix("and") if part is not None else "none"
        if part is None or unit not in _SECONDS or (not unit and part.end() < len(wanted)):
            raise ValueError(f"expected a duration such as 30 minutes, 1h 30m or 2 weeks, found {text!r}")
        found += float(part[1]) * _SECONDS[unit]
        position = part.end()
    if not wanted:
        raise ValueError("expected a duration such as 30 minutes, found an empty text")
    return found
