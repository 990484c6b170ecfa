"""Parse and format durations, sizes and platforms; find the nearest name to a misspelling."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from loom.errors import RequestError

T = TypeVar("T")

_SECONDS = {"w": 604800.0, "d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(ms|[wdhms])")
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)([kmgt]?)(i?b)?", re.IGNORECASE)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_LONGEST_S = 366 * 86400.0
_LEAST_MEMORY = 6 * 1024**2
_ARCHITECTURES = frozenset(
    (
        *("386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le"),
        *("riscv64", "s390x", "wasm", "x86_64", "x86-64", "aarch64", "armhf", "armel", "i386"),
    )
)

_NUMBER = r"[0-9]+(\.[0-9]+)?"
DURATION_PATTERN = "^(?=.)" + "".join(f"({_NUMBER}{unit})?" for unit in _SECONDS) + "$"
PLATFORM_PATTERN = r"[A-Za-z0-9_]+/[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)?"
SIZE_PATTERN = r"^[0-9]+(\.[0-9]+)?[kKmMgGtT]?([iI]?[bB])?$"


def duration(text: str) -> float:
    """Parse `90s`, `10m`, `1h30m`, `1.5h`, `2d` to seconds: each unit once, largest first. ValueError names a valid form."""
    found: dict[str, float] = {}
    position = 0
    for match in _DURATION.finditer(text):
        unit = match[2]
        if match.start() != position or any(_SECONDS[earlier] <= _SECONDS[unit] for earlier in found):
            break
        found[unit] = float(match[1])
        position = match.end()
    if not found or position != len(text):
        if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
            raise ValueError(f"expected a duration with its unit, such as {text}s or {text}m, found {text!r}")
        raise ValueError(f"expected a duration such as 90s, 10m or 1h30m, found {text!r}")
    seconds = sum(amount * _SECONDS[unit] for unit, amount in found.items())
    if seconds > _LONGEST_S:
        raise ValueError(f"expected a duration of at most a year, found {text!r}")
    return seconds


def size(text: str) -> int:
    """Parse `512m`, `2g`, `1.5GiB`, `4096` to bytes; units are powers of 1024, as for container engines. ValueError
    names a valid form.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"expected a size such as 512m, 2g or 1.5GiB, found {text!r}")
    return int(float(match[1]) * 1024 ** _POWER[match[2].lower()])


def memory(text: str) -> int:
    """Parse a `size` that is valid as a container's limit; 0 means no limit. ValueError names a valid form."""
    amount = size(text)
    if 0 < amount < _LEAST_MEMORY:
        raise ValueError(f"expected at least 6m, the minimum of container engines, found {text!r}")
    return amount


def processors(text: str) -> float:
    """Parse a number of processors such as `2` or `0.5`. ValueError names a valid form."""
    if not re.fullmatch(r"[0-9]+|[0-9]*\.[0-9]+", text) or not 0 < (number := float(text)) < 100_000:
        raise ValueError(f"expected a number of processors such as 2 or 0.5, found {text!r}")
    return number


def whole_number(text: str) -> int:
    """Parse a whole number, also a negative one. ValueError names a valid form."""
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise ValueError(f"expected a whole number such as 1024, found {text!r}")
    return int(text)


def platform(text: str) -> str:
    """Validate an image platform. ValueError names a valid form."""
    if text.lower() not in _ARCHITECTURES and not re.fullmatch(PLATFORM_PATTERN, text):
        raise ValueError(f"expected a platform such as linux/amd64, linux/arm64 or linux/arm/v7, found {text!r}")
    return text


def machine() -> str:
    names = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}
    there = os.uname()
    return f"{there.sysname.lower()}/{names.get(there.machine, there.machine)}"


def machine_size() -> str:
    """Return the CPUs and the memory that a job gets here."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{os.cpu_count()} CPUs, {round(memory / (1 << 30))} GB"


def duration_text(seconds: float) -> str:
    """Format seconds as the shortest text that `duration` parses to the same value, to the millisecond."""
    left = round(seconds * 1000)
    parts = []
    for unit in ("h", "m", "s", "ms"):
        amount, left = divmod(left, round(_SECONDS[unit] * 1000))
        if amount:
            parts.append(f"{amount}{unit}")
    return "".join(parts) or "0s"


def size_text(amount: int) -> str:
    """Format bytes as the shortest text that `size` parses to the same value."""
    for unit in ("t", "g", "m", "k"):
        step = 1024 ** _POWER[unit]
        if amount and amount % step == 0:
            return f"{amount // step}{unit}"
    return str(amount)


def rough_duration(milliseconds: float | None) -> str:
    """Format a duration for people: `87 ms`, `1.2 s`, `2 min 05 s`, `1 h 03 min`; `?` for None."""
    if milliseconds is None:
        return "?"
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def rough_size(amount: int) -> str:
    """Format bytes for people, in powers of 1000 like registries: `12 B`, `3.4 kB`, `120 MB`."""
    rest = float(amount)
    for unit in ("B", "kB", "MB", "GB"):
        if rest < 999.5:
            return f"{rest:.0f} {unit}" if unit == "B" or rest >= 99.5 else f"{rest:.1f} {unit}"
        rest /= 1000
    return f"{rest:.1f} TB"


def rough_age(seconds: float) -> str:
    """Format an age for people: `just now`, `5 min ago`, `3 h ago`, `12 days ago`."""
    for limit, unit_s, unit in ((3600, 60, "min"), (86400, 3600, "h")):
        if 60 <= seconds < limit:
            return f"{seconds // unit_s:.0f} {unit} ago"
    return f"{counted(int(seconds // 86400), 'day')} ago" if seconds >= 60 else "just now"


def nearest(name: str, known: Iterable[str], *, likeness: float = 0.6) -> str | None:
    """Return the most similar known name, if any has this share of letters in common."""
    names = [name, *known]
    bare, *others = (one.lower().lstrip("-").replace("-", "_") for one in names)
    close = difflib.get_close_matches(bare, others, n=1, cutoff=likeness)
    return names[others.index(close[0]) + 1] if close else None


def meant(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: `; did you mean X?`, or nothing. A beginning of one name means it."""
    known = list(known)
    longer = [one for one in known if len(name) > 2 and one.startswith(name.lower())]
    close = longer[0] if len(longer) == 1 else nearest(name, known)
    return f"; did you mean {close}?" if close else ""


def counted(number: int, what: str, many: str | None = None) -> str:
    """Format `1 file`, `2 files`; `many` is an irregular plural."""
    return f"{number:,} {what if number == 1 else many or f'{what}s'}"


def read_flag(flag: str, text: str, read: Callable[[str], T]) -> T:
    """Parse the value of a flag. RequestError names the flag and a valid form."""
    try:
        return read(text)
    except ValueError as error:
        raise RequestError(f"{flag}: {error}") from error


def line_number(text: str | None) -> int | None:
    """Return the number that a tool's output states for a line or column; None for another text or a huge number."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 8 else None


def shortened(text: str, most: int) -> str:
    """Return at most so many characters of a text; an ellipsis marks a cut."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
