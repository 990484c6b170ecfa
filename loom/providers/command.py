"""The command of one step, as `Session.run` takes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from loom.status import Stream
from loom.values import Environ, Immutable


class Share(Immutable):
    """A command's part in a shell that several commands share, one after the other, at its top level.

    A command that fails under the shell's `-e`, that exits, times out or is canceled ends the shell; another exit code
    does not (`Exit.goes_on`). The shell reads its program from its standard input, so it must be a POSIX shell.
    """

    first: bool = False
    """It begins a new shell. Another one goes on in the shell of the command before; where that has ended, in a new one
    with the variables, functions, options and directory that the last `saved` command left."""
    last: bool = False
    """The shell ends with it, and has its exit code."""
    saved: bool = True
    """Whether a later shell may continue with the shell's state after this command."""
    trace: bool = False
    """A new shell prints each command before it runs it."""


class Command(Immutable):
    """One step. `environment` extends the session's: outputs of earlier steps, and loom's per-step variables."""

    script: str
    shell: tuple[str, ...]
    environment: Environ = {}
    timeout_s: float | None = None
    merge_output: bool = False
    """Send stderr to the same pipe as stdout: the order of their lines is exact, and all of them are stdout's."""
    share: Share | None = None
    """None: it has a shell of its own, and the one that earlier commands shared, if any, is ended."""
    name: str = ""
    """The name under which `Detachable.hand_over` was given it."""
    observed: bool = False
    """Let a shell report the command that ends it (`Exit.reports`)."""
    began: Callable[[Stream, int, str], None] | None = None
    """Called where a command of the script's top level begins in a stream, with its line and its first word."""
    files: Mapping[str, str] = {}
    """Variables with the path of an empty file each, and its name in `Session.reported`: `path`, `output`, `saved`, `summary`."""
    start_in: str = ""
    """The directory to start in, from the project's on; the step fails if it does not exist."""
