"""Refuse shell tracing in a job with secrets.

The masker hides whole values. It can't hide a part that a script cuts out (`${TOKEN%%:*}`, `cut -c1-8`), and a trace
prints such parts. Such a job is refused before it starts.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

from msgspec import Struct

from loom.errors import SecretError
from loom.plan.model import Job

UNSAFE_DEBUG_TRACE = "SECRETS_UNSAFE_DEBUG_TRACE"
_SHELLS = frozenset({"sh", "bash", "dash", "ash", "ksh", "mksh", "zsh"})
_SWITCHES = ("CI_DEBUG_TRACE", "LOOM_DEBUG_TRACE")
_TRUE = frozenset({"1", "true", "yes", "on"})
_BEGINS_COMMAND = re.compile(r"(?:^|[;&|({]|\b(?:then|do|else|exec|sudo|env|command|builtin)\b)\s*(?=\S)")
_ENDS_COMMAND = re.compile(r"[;&|(){}]")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_TRACERS = _SHELLS | {"set"}
_LONGEST = 2000
"""The number of words to inspect: any word of a line may begin a command."""
_SHEBANG = re.compile(r"#!\s*")


class Trace(Struct, frozen=True, kw_only=True):
    """One place of a job that enables tracing: `where` for people, `line` as written.

    `key` is the key of the value in the workflow; `number` is the line of that value, from 1.
    """

    where: str
    line: str
    key: tuple[str | int, ...]
    number: int = 1


def traces(job: Job) -> tuple[Trace, ...]:
    """Return every place of a job that enables shell tracing; empty for a job without secrets."""
    return tuple(_traces(job)) if job.secrets else ()


def check_debug_trace(job: Job) -> None:
    """Raise SecretError SECRETS_UNSAFE_DEBUG_TRACE when a job with secrets enables tracing."""
    found = traces(job)
    if not found:
        return
    places = "\n".join(f"{trace.where}: {trace.line}" for trace in found)
    names = ", ".join(secret.name for secret in job.secrets)
    raise SecretError(
        f"job {job.id} has secrets ({names}) and enables shell tracing; "
        f"a trace can show parts of a secret, which can't be masked ({UNSAFE_DEBUG_TRACE})\n{places}",
        hint="Remove the tracing (`set -x`, the shell's -x), or move the steps that need secrets to another job.",
        code=UNSAFE_DEBUG_TRACE,
    )


def _traces(job: Job) -> Iterator[Trace]:
    if _options_trace(job.shell[1:]):
        yield Trace(where="shell", line=" ".join(job.shell), key=("shell",))
    for name, value in job.variables.items():
        switch = name in _SWITCHES and value.strip().lower() in _TRUE
        if switch or (name == "SHELLOPTS" and "xtrace" in value.split(":")):
            yield Trace(where=f"variable {name}", line=f"{name}={value}", key=("variables", name))
    for step in job.steps:
        for number, line in enumerate(step.script.splitlines(), 1):
            if _line_traces(line, first=number == 1):
                key = (step.phase, step.number - 1)
                yield Trace(where=f"{step.id}, line {number}", line=line.strip(), key=key, number=number)


def _line_traces(line: str, *, first: bool) -> bool:
    if first and (shebang := _SHEBANG.match(line)) is not None:
        return _options_trace(_options(line[shebang.end() :]))
    if line.lstrip().startswith("#"):
        return False
    return any(_options_trace(_options(line[match.end() :])) for match in _BEGINS_COMMAND.finditer(line))


def _options(text: str) -> list[str]:
    """Return the options of a shell or of `set`, as far as words can be split without a shell; stops at the next command."""
    written = iter(_ENDS_COMMAND.split(text[:_LONGEST], maxsplit=1)[0].split())
    first = next((word for word in written if not _ASSIGNMENT.match(word) and _name(word) != "env"), "")
    words = [_unquoted(first)]
    if _name(words[0]) not in _TRACERS:
        return []
    for word in written:
        words.append(_unquoted(word))
        if not words[-1].startswith(("-", "+")) and not words[-2].endswith("o"):
            break
    return words[1:]


def _unquoted(word: str) -> str:
    try:
        return "".join(shlex.split(word))
    except ValueError:  # a quote that another word closes
        return word


def _name(word: str) -> str:
    return word.rpartition("/")[2]


def _options_trace(words: Sequence[str]) -> bool:
    """Return whether the options of a shell (or of `set`) enable tracing; arguments after the options are ignored."""
    at = 0
    while at < len(words) and re.match(r"[-+][A-Za-z]|--[a-z]", words[at]):
        word = words[at]
        if word.startswith("--"):
            if word == "--xtrace":
                return True
        elif word.startswith("-"):
            if "x" in word:
                return True
            if word.endswith("o") and at + 1 < len(words):
                at += 1
                if words[at] == "xtrace":
                    return True
        at += 1
    return False
