"""Outputs of earlier jobs on GitHub, which its API does not have: read from the log of a job that uses them.

The runner shows a step's script, `env` and `with` with their values; compared with the workflow's text, these are the outputs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

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
    patterns = list(_patterns(job))
    found: Outputs = {}
    for line in headers if patterns else ():
        for pattern, names in patterns:
            if (match := pattern.fullmatch(line)) is not None:
                values = zip(names, match.groups(), strict=True)
                found |= {name: value for name, value in values if _MASKED not in value}
    return found


def _patterns(job: Job) -> Iterator[tuple[re.Pattern[str], list[tuple[str, str]]]]:
    for text in _texts(job):
        pieces = _EXPRESSION.split(text)
        used = [_USED.fullmatch(piece.strip()) for piece in pieces[1::2]]
        if any(used):
            between = [
                f"{'(.*?)' if one else '.*?'}{re.escape(after)}" for one, after in zip(used, pieces[2::2], strict=True)
            ]
            yield re.compile(re.escape(pieces[0]) + "".join(between)), [(one[1], one[2]) for one in used if one]


def _texts(job: Job) -> Iterator[str]:
    """Yield the lines of which the server shows the values."""
    late = [step.late for step in job.steps if step.late is not None]
    for mapping in [job.late.env if job.late else {}, *(each.env for each in late), *(each.inputs for each in late)]:
        yield from (f"  {name}: {text}" for name, text in mapping.items())
    yield from (line for step in job.steps for line in step.script.splitlines())
