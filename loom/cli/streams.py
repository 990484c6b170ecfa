"""The process's standard streams: there, whoever started us, and known by their names when they can't be written."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TYPE_CHECKING

from loom.errors import InfrastructureError
from loom.output import STANDARD_OUTPUT

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Output(io.FileIO):
    """Standard output. Its errors name it, and the first is kept: whoever writes may go on, but the end must tell."""

    failed: OSError | None = None
    terminal = False

    @property
    def left(self) -> bool:
        """Whether it failed since nobody is there any more: a pipe's reader, or the window of a terminal."""
        error = self.failed
        return isinstance(error, BrokenPipeError) or (self.terminal and error is not None and error.errno == errno.EIO)

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            error.filename = STANDARD_OUTPUT
            self.failed = self.failed or error
            raise


def complete() -> None:
    """Whoever starts us may have closed some of them (`>&-`, a service manager); else a file of ours would take the place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115  as Python does
    plain = sys.stdout
    assert isinstance(plain, io.TextIOWrapper)
    output = _Output(1, "w", closefd=False)
    output.terminal = output.isatty()
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(output),
        encoding=plain.encoding,
        errors=plain.errors,
        line_buffering=plain.line_buffering,
        write_through=plain.write_through,
    )


def written(hint: str | None = None) -> None:
    """Write what is held back. InfrastructureError, with this `hint`, when standard output did not take all of it.

    That nobody reads any more is no error.
    """
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        pass  # known below, where it is to be told
    output = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(output, _Output) and output.failed is not None and not output.left:
        raise unwritable(output.failed, hint)


def unwritable(error: OSError, hint: str | None = None) -> InfrastructureError:
    return InfrastructureError(
        f"{STANDARD_OUTPUT} can't be written: {error.strerror}",
        hint=hint or "make room where it leads, or lead it elsewhere",
        code="OUTPUT_UNWRITABLE",
    )
