"""Outputs of earlier jobs on GitHub, which its API lacks: read from the lines that show a later step with its values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from loom.plan.model import Job
from loom.util import jsons

_USED = re.compile(r"\bneeds\.([\w-]+)\.outputs\.([\w-]+)")
_EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}")
_MASKED = "***"

Outputs = dict[tuple[str, str], str]
"""By need and name."""


def used_outputs(job: Job) -> set[tuple[str, str]]:
    """Return those that the job's texts name."""
    return set(_USED.findall(jsons.encode_line([job.late, job.steps]).decode()))


def outputs_in_log(job: Job, headers: Iterable[str]) -> Outputs:
    """Return those whose values are in the lines with which the server shows the job's steps."""
    templates = list(_templates(job))
    found: Outputs = {}
    for line in headers if templates else ():
        for literals, names in templates:
            values = zip(names, _between(line, literals), strict=False)
            found |= {name: value for name, value in values if name is not None and _MASKED not in value}
    return found


def _templates(job: Job) -> Iterator[tuple[list[str], list[tuple[str, str] | None]]]:
    """Yield the lines that use an output: the text around their expressions, and which output each of these is."""
    for text in _texts(job):
        pieces = _EXPRESSION.split(text)
        used = [_USED.fullmatch(piece.strip()) for piece in pieces[1::2]]
        if any(used):
            yield pieces[::2], [(one[1], one[2]) if one else None for one in used]


def _between(line: str, literals: Sequence[str]) -> list[str]:
    """Return what stands between the literals, each taken where it comes first; nothing for another line."""
    first, *others, last = literals
    end = len(line) - len(last)
    if not line.startswith(first) or not line.endswith(last):
        return []
    found, at = [], len(first)
    for literal in (*others, None):
        to = end if literal is None else line.find(literal, at)
        if not at <= to <= end:
            return []
        found.append(line[at:to])
        at = to + len(literal or "")
    return found


def _texts(job: Job) -> Iterator[str]:
    """Yield the lines of which the server shows the values."""
    late = [step.late for step in job.steps if step.late is not None]
    for mapping in [job.late.env if job.late else {}, *(each.env for each in late), *(each.inputs for each in late)]:
        yield from (f"  {name}: {text}" for name, text in mapping.items())
    yield from (line for step in job.steps for line in step.script.splitlines())
