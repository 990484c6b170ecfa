"""Refuse shell tracing in a job with secrets.

The masker hides whole values. It can't hide a part that a script cuts out (`${TOKEN%%:*}`, `cut -c1-8`), and a trace
prints such parts. Such a job is refused before it starts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from loom.errors import SecretError
from loom.plan.model import Job
from loom.values import Immutable

UNSAFE_DEBUG_TRACE = "SECRETS_UNSAFE_DEBUG_TRACE"
_SWITCHES = ("CI_DEBUG_TRACE", "LOOM_DEBUG_TRACE")
_TRUE = frozenset({"1", "true", "yes", "on"})
_TRACES = re.compile(
    r"""(?:^|[;&|({]|\b(?:then|do|else|exec|sudo|command|builtin)\b)\s*
    (?:(?:env|[A-Za-z_]\w*=\S*)\s+)*
    ['"]?(?:[\w./-]*/)?(?:sh|bash|dash|ash|ksh|mksh|zsh|set)['"]?
    (?:\s+['"]?(?:--(?!xtrace)[a-z][a-z-]*|\+[A-Za-z]+|-[A-Za-wyz]*o['"]?\s+(?!['"]?xtrace)['"]?\w+|-[A-Za-wyz]+)['"]?)*
    \s+['"]?(?:--xtrace|-[A-Za-wyz]*x|-[A-Za-wyz]*o['"]?\s+['"]?xtrace)""",
    re.VERBOSE,
)
"""A command with an option of a shell (or of `set`) that enables tracing, before any other argument."""


class Trace(Immutable):
    """One part of a job that enables tracing: `where` for people, `line` as written.

    `key` is the key of the value in the workflow; `number` is the line of that value, from 1.
    """

    where: str
    line: str
    key: tuple[str | int, ...]
    number: int = 1


def traces(job: Job) -> tuple[Trace, ...]:
    """Return every part of a job that enables shell tracing; empty for a job without secrets."""
    return tuple(_traces(job)) if job.secrets else ()


def check_debug_trace(job: Job) -> None:
    """Raise SecretError SECRETS_UNSAFE_DEBUG_TRACE when a job with secrets enables tracing."""
    found = traces(job)
    if not found:
        return
    lines = "\n".join(f"{trace.where}: {trace.line}" for trace in found)
    names = ", ".join(secret.name for secret in job.secrets)
    raise SecretError(
        f"job {job.id} has secrets ({names}) and enables shell tracing; "
        f"a trace can show parts of a secret, which can't be masked ({UNSAFE_DEBUG_TRACE})\n{lines}",
        hint="Remove the tracing (`set -x`, the shell's -x), or move the steps that need secrets to another job.",
        code=UNSAFE_DEBUG_TRACE,
    )


def _traces(job: Job) -> Iterator[Trace]:
    if _TRACES.match(" ".join(("sh", *job.shell[1:]))):
        yield Trace(where="shell", line=" ".join(job.shell), key=("shell",))
    for name, value in job.variables.items():
        switch = name in _SWITCHES and value.strip().lower() in _TRUE
        if switch or (name == "SHELLOPTS" and "xtrace" in value.split(":")):
            yield Trace(where=f"variable {name}", line=f"{name}={value}", key=("variables", name))
    for step in job.steps:
        for number, line in enumerate(step.script.splitlines(), 1):
            command = line.removeprefix("#!") if number == 1 else line
            if not command.lstrip().startswith("#") and _TRACES.search(command):
                key = (step.phase, step.number - 1)
                yield Trace(where=f"{step.id}, line {number}", line=line.strip(), key=key, number=number)
