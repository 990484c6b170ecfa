"""The only conversion of exceptions to messages and exit codes."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from loom import __version__
from loom.addresses import hide_credentials
from loom.commands import terminal
from loom.errors import InfrastructureError, LoomError, RequestError
from loom.record.lines import STANDARD_OUTPUT
from loom.status import ExitCode
from loom.util import controls, startup
from loom.util.controls import escape_commands
from loom.util.refusals import refusal

RUNS = ("run", "rerun", "resume")
"""The commands that start a run."""


def run_app(arguments: list[str]) -> int:
    """Run the command line; return the exit code. Never raises."""
    code = _run(arguments)
    while startup.at_end:
        startup.at_end.pop()()
    return code


def _run(arguments: list[str]) -> int:
    began_ns = time.time_ns()
    if any(name.startswith("LOOM_") for name in os.environ) and "_LOOM_COMPLETE" not in os.environ:
        from loom.config import misspelt  # `loom --version` needs no setting

        for line in misspelt(os.environ):
            _print(f"loom: {line}")
    try:
        code = _ended_with(arguments)
        terminal.written()
        return code
    except KeyboardInterrupt:
        _print("interrupted")
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001  the outermost boundary: any other exception is our bug
        code = _print_error(error) if isinstance(error, LoomError) else _foreign(error)
        if arguments and arguments[0] in RUNS:
            from loom.commands.project.refusal import note_refusal  # only a failed run needs it

            note_refusal(arguments, error, code, began_ns=began_ns)
        refused = arguments[:1] == ["exec"] and code in (ExitCode.REQUEST, ExitCode.INFRASTRUCTURE)
        return ExitCode.NOT_RUN if refused else code


def _ended_with(arguments: list[str]) -> int:
    from loom.cli.app import app_for

    try:
        outcome = app_for(arguments)(args=arguments, prog_name="loom", standalone_mode=False)
        return int(outcome) if isinstance(outcome, int) else ExitCode.OK
    except SystemExit as leaving:
        if isinstance(leaving.__context__, BrokenPipeError):  # typer treats it as a failure
            # The reader of the output closed it (`loom logs | head`): not an error, and no message can be shown.
            return ExitCode.OK
        return leaving.code if isinstance(leaving.code, int) else ExitCode.REQUEST


def _foreign(error: Exception) -> int:
    from loom.cli.app import exit_code_of_usage_error

    if isinstance(error, FileNotFoundError) and not _has_directory():
        return _print_error(RequestError("the directory that you are in was removed", hint="go to another one: cd ~"))
    if isinstance(error, OSError) and error.filename == STANDARD_OUTPUT:
        return _print_error(terminal.unwritable(error))
    if (refused := refusal(error)) is not None:
        return _print_error(refused)
    if isinstance(error, subprocess.TimeoutExpired):
        words = error.cmd if isinstance(error.cmd, str) else " ".join(map(str, error.cmd[:3]))
        return _print_error(InfrastructureError(f"{words} has not ended within {error.timeout:.0f} s"))
    usage = exit_code_of_usage_error(error)
    return usage if usage is not None else _bug(error)


def _has_directory() -> bool:
    try:
        os.getcwd()  # noqa: PTH109
    except FileNotFoundError:
        return False
    return True


def _bug(error: Exception) -> int:
    """Report a bug: one line on the screen, details in a file."""
    report = "\n".join(
        [
            f"loom {__version__} · Python {platform.python_version()} · {platform.platform()}",
            f"command: {' '.join(sys.argv)}",
            "",
            "".join(traceback.format_exception(error)),
        ]
    )
    where = "(the report could not be written)"
    with contextlib.suppress(OSError):
        handle, name = tempfile.mkstemp(prefix="loom-bug-", suffix=".txt")
        with os.fdopen(handle, "w") as file:
            file.write(controls.hide(hide_credentials(report)))
        where = str(Path(name))
    _print(f"loom: internal error: {type(error).__name__}: {error}")
    _print(f"This is a bug in loom. The details are in {where}; please attach them to a report.")
    return ExitCode.BUG


def _print_error(error: LoomError) -> int:
    from loom.render.problems import error_lines  # only a failed command needs it

    for line in error_lines(error):
        _print(line)
    return error.exit_code


def _print(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(escape_commands(line), file=sys.stderr, flush=True)
