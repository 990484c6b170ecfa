"""Step semantics for all providers: the shell's arguments, and the file of output variables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from loom.config import AUTO_SHELL
from loom.errors import ProviderError

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_OPENER = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)<<(\S.*)\Z")

_STRICT = ("-e", "-o", "pipefail")
SH = ("sh", "-e")
AUTO: Mapping[str, tuple[str, ...]] = {"bash": ("bash", *_STRICT), "pipefail": ("sh", *_STRICT)}
"""What `AUTO_SHELL` is where there is bash, and where only `sh` is but knows `pipefail`; else SH. GitLab's runner chooses so."""
KNOWS_PIPEFAIL = "(set -o pipefail) 2>/dev/null"
"""A condition in the language of the shell that it asks about."""
MOST_COMMANDS = 5


def chosen(shell: Sequence[str], auto: Sequence[str]) -> Sequence[str]:
    """Return a job's actual shell: `auto` in place of `AUTO_SHELL`."""
    return auto if tuple(shell) == AUTO_SHELL else shell


def arguments_of(shell: Sequence[str], file: str) -> list[str]:
    """Return the command for a script's file: it replaces `{0}` in the shell's arguments, or comes last."""
    arguments = [part.replace("{0}", file) for part in shell]
    return arguments if arguments != list(shell) else [*arguments, file]


def is_variable(name: str) -> bool:
    """Return whether a shell can set this variable."""
    return _IDENTIFIER.match(name) is not None


def checked(script: str, environment: Mapping[str, str]) -> None:
    """Raise ProviderError for text that no shell accepts."""
    for name, value in environment.items():
        if not is_variable(name):
            raise ProviderError(f"{name!r} can't be a step's variable: use letters, digits and _")
        if "\0" in value:
            raise ProviderError(f"the variable {name} holds a NUL byte, which no process can be given")
    if "\0" in script:
        raise ProviderError("a step's script holds a NUL byte, which no shell can take")


def handed_on(lines: Sequence[bytes]) -> dict[str, str]:
    """Parse the lines of a `$LOOM_ENV` file: `NAME=value`, or `NAME<<END`, lines, `END`. Others are ignored."""
    variables: dict[str, str] = {}
    at = 0
    while at < len(lines):
        line = lines[at].decode("utf-8", "surrogateescape")
        at += 1
        name, equals, value = line.partition("=")
        if opener := _OPENER.match(line):
            end = opener[2].encode("utf-8", "surrogateescape")
            try:
                stop = list(lines).index(end, at)
            except ValueError:
                stop = len(lines)
            variables[opener[1]] = b"\n".join(lines[at:stop]).decode("utf-8", "surrogateescape")
            at = stop + 1
        elif equals and _IDENTIFIER.match(name):
            variables[name] = value
    return variables


def still_running(commands: Sequence[str], script: str) -> tuple[str, ...]:
    """Choose the command lines to report: the shell of the step (it names its `script`) only if it waits for nothing."""
    others = [command for command in commands if command and script not in command]
    return tuple((others or [*commands])[:MOST_COMMANDS])
