"""The input and reports of a step's shell, for all providers: its arguments, its program, output variables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from loom.config import AUTO_SHELL
from loom.errors import ProviderError
from loom.providers.command import Command, Share
from loom.providers.driver import endings
from loom.values import Environ

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


def checked(script: str, environment: Environ) -> None:
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


# One shell for several commands: what it is given to read, and what it reports.
#
# The shell reads its program from its standard input, a few lines for each command, and runs each command's file with `.`,
# at the top level: variables, functions, options, traps and the directory go on, and a failure under `set -e`, or `exit`,
# ends the shell. Commands themselves have an empty standard input. The shell reports on descriptor `REPORTS`, which
# commands do not have: `n CODE` after each command that leaves it alive.
#
# After each command it writes its state to a file, so that another shell can go on from there.

REPORTS = 8
# After a command: whether the shell ends with `loom_code`, since the command returned. What GitLab's runner has in one `eval`,
# where `return` is an error for bash, and the end for other shells, is a file here. bash's trap keeps `set -e` from ending the
# shell with the code of that `return`.
_ON_RETURN = b"""{ [ -z "${BASH_VERSION-}" ] || trap '{ [ -n "${BASH_SOURCE[*]}" ] || { trap - RETURN
[ -n "${loom_code+x}" ] || { loom_code=r$-; set +e; }; }; } 2>/dev/null' RETURN; } 2>/dev/null
"""
_RETURNED = b"""{ loom_code=${loom_code-r$?}; [ "$loom_code" != "${loom_code#r}" ] && { loom_code=${loom_code#r}
[ -z "${BASH_VERSION-}" ] || { echo "bash: return: can only \\`return' from a function or sourced script" >&9
case $loom_code$- in *e*) loom_code=1 ;; *) loom_code=1 && false ;; esac; }; }; } 9>&2 2>/dev/null && exit "$loom_code"
"""

# Without a process of its own. bash prints all of its state as commands; other shells can't print functions.
_SAVE = """if [ -n "${BASH_VERSION-}" ]; then declare -p; declare -f; alias -p; shopt -p; trap -p; umask -p; set +o
else set; export -p; alias; trap; printf 'umask '; umask; set +o; fi >|%(state)s
printf 'cd "$PWD" || :\\n' >>%(state)s"""
# Read-only variables (of bash itself, too) can't be set again. Options come last in it, `errexit` among them.
_RESTORE = """{ set +e; } 2>/dev/null
if [ -s %(state)s ]; then . %(state)s 2>/dev/null; else set -e; echo "loom: variables, functions and the directory of the \
steps before this one are not there any more" >&2; fi
"""


def file_of(command: Command, share: Share, reports: str, token: bytes) -> str:
    """Return the content of a command's file. Its last line keeps the script's exit code from `set -e`, as between lines.

    An observed one reports to the file `reports` which command ends the shell, and marks with `token` where commands begin.
    """
    # On the first line, so that the lines that the shell's messages name are the script's.
    before = marks = ""
    if command.observed:
        before = endings.reporting(command.shell, reports) if share.first else ""
        marks = endings.marking(command.shell, command.script, token)
    trace = "set -x; " if share.trace and share.first else ""
    end = "loom_code=$?; trap - DEBUG" if "DEBUG" in marks else "loom_code=$?"
    return f"{before}{trace}{marks}{command.script}\n\n{{ {end}; }} 2>/dev/null\n"


def program(command: Command, share: Share, file: str, state: str, *, restore: bool = False) -> bytes:
    """Return the lines for the shell: set the environment, run `file`; report and go on, or end with its exit code.

    `restore`: first become the shell that left `state`.
    """
    given = exports(command.environment)
    parts = [
        (_RESTORE % {"state": state}).encode() if restore else b"",
        b"{\n" + given + b"} 2>/dev/null\n" if given else b"",
        _ON_RETURN,
        f". {file} </dev/null {REPORTS}>&-\n".encode(),
        _RETURNED,
        b'exit "$loom_code"\n'
        if share.last
        else b"{\n"
        + ((_SAVE % {"state": state}).encode() if share.saved else b"")
        + f"\nprintf 'n %s\\n' \"$loom_code\" >&{REPORTS}\nunset loom_code\n}} 2>/dev/null || :\n".encode(),
    ]
    return b"".join(parts)


def exports(environment: Environ) -> bytes:
    """Return the lines of a shell's program that set these variables."""
    return b"".join(b"export " + name.encode() + b"=" + quoted(value) + b"\n" for name, value in environment.items())


def quoted(value: str) -> bytes:
    """Quote `value` as one word of a shell's program: always, since zsh reads a bare `=ls` as the path of `ls`."""
    return b"'" + value.encode("utf-8", "surrogateescape").replace(b"'", b"'\\''") + b"'"
