"""Detect Bash syntax in steps that sh runs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from msgspec import Struct

POSIX_SHELLS = ("sh", "dash", "ash")
_HERE_DOCUMENT = re.compile(r"(?<!<)<<-?[ \t]*(['\"]?)(\w+)\1[^\n]*\n(.*?\n)?[ \t]*\2(?=\n|\Z)", re.DOTALL)
_QUOTED = re.compile(r"\\.|'[^']*'|\"(?:[^\"\\]|\\.)*\"|(?<![^\s;&|(])#[^\n]*", re.DOTALL)
_EXPANSION = re.compile(r"\$\{[^}\s]*\}")
_BEGINS = r"(?:^|[;&|(]|\b(?:if|while|until|then|do|else|elif)\b|!)[ \t]*"
_BASHISMS = (
    (re.compile(_BEGINS + r"(?P<found>\[\[)\s"), "[[ ... ]] is bash; write [ ... ], or case"),
    (re.compile(_BEGINS + r"(?P<found>\(\()"), "(( ... )) is bash; write [ $((...)) -ne 0 ]"),
    (re.compile(_BEGINS + r"(?P<found>[A-Za-z_]\w*=\()"), "arrays are bash; sh has $@ alone"),
    (re.compile(r"(?P<found>\$\{[A-Za-z_]\w*\[[^}]*\})"), "arrays are bash; sh has $@ alone"),
    (re.compile(r"(?P<found>\$\{[A-Za-z_]\w*(?:/|\^|,|:\d|:[ ]-?\d)[^}]*\})"), "this expansion is bash; use sed, tr or cut"),
    (re.compile(r"(?:^|[\s;&|])(?P<found>[<>]\([^)\n]*\))"), "<( ... ) is bash; use a pipe or a file"),
    (re.compile(r"(?P<found><<<)"), "<<< is bash; use a pipe or a here document"),
    (re.compile(r"(?<![&>\d])(?P<found>&>)(?!&)"), "&> is bash; in sh the command goes into the background: write >FILE 2>&1"),
    (re.compile(_BEGINS + r"(?P<found>function[ \t]+[A-Za-z_])"), "the keyword function is bash; write name() { ... }"),
    (re.compile(_BEGINS + r"(?P<found>source[ \t])"), "source is bash; write . FILE"),
    (re.compile(_BEGINS + r"(?P<found>set[ \t]+-\w*o[ \t]+pipefail)"), "pipefail is bash, and an error in most sh"),
    (re.compile(_BEGINS + r"\[[ \t][^\]\n]*[ \t](?P<found>==)[ \t]"), "== is bash; write ="),
)  # fmt: skip


class Found(Struct, frozen=True, kw_only=True):
    """A finding in line `number` (from 1) of a script."""

    number: int
    text: str
    message: str


def is_posix(shell: Sequence[str]) -> bool:
    """Return whether a job's shell is certainly not bash."""
    return bool(shell) and shell[0].rpartition("/")[2] in POSIX_SHELLS


def bashisms(script: str) -> Iterator[Found]:
    """Find Bash-only syntax: a few constructs without a POSIX meaning. Reports the first per line."""
    for number, line in enumerate(_code(script).split("\n"), 1):
        for pattern, message in _BASHISMS:
            if match := pattern.search(line):
                yield Found(number=number, text=match["found"].strip(), message=message)
                break


def _code(script: str) -> str:
    """Split a script into lines without comments, quoted text (except expansions) and here documents."""
    return _QUOTED.sub(_stripped, _HERE_DOCUMENT.sub(lambda match: "\n" * match[0].count("\n"), script))


def _stripped(match: re.Match[str]) -> str:
    text = match[0]
    quoted = {"'": "''", '"': "".join(_EXPANSION.findall(text)) or '""'}
    return quoted.get(text[0], "") + "\n" * text.count("\n")
