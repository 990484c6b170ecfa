"""Outputs of earlier jobs on GitHub, which its API does not have: read from the log of a job that uses them.

The runner shows a step's script, `env` and `with` with their values; compared with the workflow's text, these are the outputs.
"""

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
        for pieces, used in templates:
            for one, value in zip(used, _between(pieces, line), strict=False):
                if one is not None and _MASKED not in value:
                    found[one[1], one[2]] = value
    return found


def _templates(job: Job) -> Iterator[tuple[list[str], list[re.Match[str] | None]]]:
    """Yield the literal pieces of each text with outputs, and the output of each expression between them."""
    for text in _texts(job):
        pieces = _EXPRESSION.split(text)
        used = [_USED.fullmatch(piece.strip()) for piece in pieces[1::2]]
        if any(used):
            yield pieces[::2], used


def _between(pieces: Sequence[str], line: str) -> list[str]:
    """Return what stands between the pieces, each as short as possible; nothing where the line does not consist of them.

    No pattern: a stranger writes the text and the line, and one with many groups could search for hours.
    """
    first, *inner, last = pieces
    values, at = list[str](), len(first)
    for piece in inner:
        end = line.find(piece, at)
        if end < 0:
            return []
        values.append(line[at:end])
        at = end + len(piece)
    end = len(line) - len(last)
    return [*values, line[at:end]] if line.startswith(first) and line.endswith(last) and at <= end else []


def _texts(job: Job) -> Iterator[str]:
    """Yield the lines of which the server shows the values."""
    late = [step.late for step in job.steps if step.late is not None]
    for mapping in [job.late.env if job.late else {}, *(each.env for each in late), *(each.inputs for each in late)]:
        yield from (f"  {name}: {text}" for name, text in mapping.items())
    yield from (line for step in job.steps for line in step.script.splitlines())
