"""The command line: arguments in, exit code out.

One module per command group, each a thin call. Modules here import only typer and light parts of loom at the top. The
rest is imported when a command runs, so `--help` and completion stay fast.
"""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the `loom` command."""
    # ^C before the start ends the process: during an import it would print a traceback or crash.
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


# Python keeps frames in blocks of 16 kB, and gives a block back when its last frame ends: at the wrong depth of imports, each
# call maps and unmaps one, six thousand times in a run. A frame that asks for 256 kB gets a block with room for all it calls.
main.__code__ = main.__code__.replace(co_stacksize=1 << 15)
