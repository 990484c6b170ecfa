"""What a step is, whichever provider runs it: the shell's arguments, and the file of variables that it hands on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from loom.config import AUTO_SHELL
from loom.errors import ProviderError

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_OPENER = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)<<(\S.*)\Z")


BASH = ("bash", "-e", "-o", "pipefail")
SH = ("sh", "-e")


def chosen(shell: Sequence[str], *, has_bash: bool) -> Sequence[str]:
    """A job's shell, known once its place is: what `AUTO_SHELL` means there."""
    return shell if tuple(shell) != AUTO_SHELL else BASH if has_bash else SH


def arguments_of(shell: Sequence[str], file: str) -> list[str]:
    """How `shell` is called on a script's file: `{0}` in its arguments stands for the file; without it the file comes last."""
    arguments = [part.replace("{0}", file) for part in shell]
    return arguments if arguments != list(shell) else [*arguments, file]


def checked(script: str, environment: Mapping[str, str]) -> None:
    """ProviderError for what no shell can take."""
    for name, value in environment.items():
        if not _IDENTIFIER.match(name):
            raise ProviderError(f"{name!r} can't be a step's variable: use letters, digits and _")
        if "\0" in value:
            raise ProviderError(f"the variable {name} holds a NUL byte, which no process can be given")
    if "\0" in script:
        raise ProviderError("a step's script holds a NUL byte, which no shell can take")


def handed_on(lines: Sequence[bytes]) -> dict[str, str]:
    """The variables in the lines of a `$LOOM_ENV` file: `NAME=value`, or `NAME<<END`, lines, `END`. Others say nothing."""
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
