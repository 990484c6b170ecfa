"""Arguments, environment, signals and terminal in; exit code out.

One module per command group, each a thin call. Modules here import only typer and light parts of loom at the top: what a
command needs is imported when it runs, so that `--help` and completion stay quick.
"""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """The `loom` command."""
    # ^C while nothing has begun just ends the process: out of the middle of an import comes a traceback, or a crash.
    interrupt = signal.getsignal(signal.SIGINT)
    if interrupt is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from loom.commands import terminal
    from loom.util import startup

    startup.configure()
    terminal.complete()
    from loom.cli import app  # noqa: F401  what every command needs
    from loom.cli.boundary import run_app

    signal.signal(signal.SIGINT, interrupt)
    startup.leave(run_app(sys.argv[1:]))
