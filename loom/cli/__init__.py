"""Arguments, environment, signals and terminal in; exit code out.

One module per command group, each a thin call. Modules here import only typer and light parts of loom at the top: what a
command needs is imported when it runs, so that `--help` and completion stay quick.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading


def main() -> None:
    """The `loom` command."""
    # Looking for pydantic plugins reads the metadata of every installed package: 25 ms that no one here needs.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # What imports make stays for good; looking through it for garbage takes 30 to 60 ms of a run's start.
    gc.set_threshold(500_000, 20, 100)
    # ^C while nothing has begun just ends the process: out of the middle of an import comes a traceback, or a crash.
    interrupt = signal.getsignal(signal.SIGINT)
    if interrupt is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from loom.commands import terminal

    terminal.complete()
    from loom.cli import app  # noqa: F401  what every command needs
    from loom.cli.boundary import run_app

    signal.signal(signal.SIGINT, interrupt)
    _leave(run_app(sys.argv[1:]))


def _leave(code: int) -> None:
    """End the process without taking the interpreter apart (40 ms), unless a thread has still something to do."""
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass  # nobody reads any more
    os._exit(code)
