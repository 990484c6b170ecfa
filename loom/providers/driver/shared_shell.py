"""One shell for several commands: what it is given to read, and what it reports.

The shell reads its program from its standard input, a few lines for each command, and runs each command's file with `.`,
at the top level: variables, functions, options, traps and the directory go on, and a failure under `set -e`, or `exit`,
ends the shell. Commands themselves have an empty standard input. The shell reports on descriptor `REPORTS`, which
commands do not have: `n CODE` after each command that leaves it alive.

After each command it writes its state to a file, so that another shell can go on from there.
"""

from __future__ import annotations

from collections.abc import Mapping

from loom.providers.base import Command, Share
from loom.providers.driver import endings

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


def exports(environment: Mapping[str, str]) -> bytes:
    """Return the lines of a shell's program that set these variables."""
    return b"".join(b"export " + name.encode() + b"=" + quoted(value) + b"\n" for name, value in environment.items())


def quoted(value: str) -> bytes:
    """Quote `value` as one word of a shell's program: always, since zsh reads a bare `=ls` as the path of `ls`."""
    return b"'" + value.encode("utf-8", "surrogateescape").replace(b"'", b"'\\''") + b"'"
