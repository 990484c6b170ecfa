"""Match known failures. `known_failures.yml`, beside this module, defines them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from loom.record.documents import Document

MOST_CAUSES = 3


class Cause(Document, frozen=True, kw_only=True):
    """A matching known failure. `line` is its evidence, `advice` the next move."""

    code: str
    summary: str
    advice: str
    confidence: Literal["likely", "possible"] = "likely"
    """`likely`: an error of loom itself, or the line that the unit failed with. `possible`: any line before that one."""
    line: str | None = None


class Known(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry of `known_failures.yml`, which documents its fields."""

    code: str
    summary: str
    advice: str
    ended: str | None = None
    error: str | None = None
    exit_code: int | None = None
    output: list[str] = []
    instead_of: list[str] = []
    example: str | None = None

    def fits_end(self, ended: str, error: str | None, exit_code: int | None) -> bool:
        if self.error is not None:
            return error is not None and re.search(self.error, error) is not None
        if self.exit_code is not None:  # a canceled job has the code of its signal
            return exit_code == self.exit_code and ended != "canceled"
        return ended == self.ended


@cache
def table() -> tuple[Known, ...]:
    data = Path(__file__).with_suffix(".yml").read_bytes()
    return msgspec.yaml.decode(data, type=tuple[Known, ...])


@cache
def _patterns() -> list[tuple[Known, re.Pattern[str]]]:
    return [(known, re.compile("|".join(known.output), re.IGNORECASE)) for known in table() if known.output]


def causes(
    *, ended: str, error: str | None, exit_code: int | None, lines: Sequence[str], on_host: bool, first: Sequence[Cause]
) -> list[Cause]:
    """Return matching failures by certainty: `first`, then those that match the job's end, then those that match its
    output.
    """
    found = list(first)
    found += [cause(known) for known in table() if known.fits_end(ended, error, exit_code)][:1]
    where = " (on this machine)" if on_host else ""
    found += _in_output(lines, {cause.code for cause in found}, where)
    codes = {cause.code for cause in found}
    hidden = {other for known in table() if known.code in codes for other in known.instead_of}
    return [cause for cause in found if cause.code not in hidden][:MOST_CAUSES]


def _in_output(lines: Sequence[str], taken: set[str], where: str) -> list[Cause]:
    found: list[Cause] = []
    for line in reversed(lines):
        for known, pattern in _patterns():
            match = None if known.code in taken else pattern.search(line)
            if match is None:
                continue
            taken.add(known.code)
            name = next((value for value in match.groupdict().values() if value), "")
            found.append(cause(known, line=line.strip()[:200], name=name, where=where))
            break
        if len(found) == MOST_CAUSES:
            break
    return found


def cause(known: Known, *, line: str | None = None, **values: str) -> Cause:
    """Fill an entry's placeholders."""
    texts = [known.summary, known.advice]
    for name, value in values.items():
        texts = [text.replace(f"{{{name}}}", value) for text in texts]
    return Cause(code=known.code, summary=texts[0], advice=texts[1], line=line)


def ignored_file(path: str, rule: str | None) -> Cause:
    known = next(known for known in table() if known.code == "ignored_file")
    return cause(known, path=path, quoted=shlex.quote(path), rule=f" ({rule})" if rule else "")
