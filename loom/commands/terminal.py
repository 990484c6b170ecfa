"""The process's standard streams: there, whoever started us, and known by their names when they can't be written."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO, cast

from loom.errors import InfrastructureError
from loom.record.lines import STANDARD_OUTPUT
from loom.util import controls
from loom.util.controls import cleaned

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Output(io.FileIO):
    """Standard output. Its errors name it, and the first is kept: whoever writes may go on, but the end must tell."""

    failed: OSError | None = None
    terminal = False

    @property
    def left(self) -> bool:
        """Whether the reader is gone: of a pipe, or the window of a terminal."""
        error = self.failed
        return isinstance(error, BrokenPipeError) or (self.terminal and error is not None and error.errno == errno.EIO)

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            # None: whoever else has the terminal or the pipe has made it non-blocking, and it is full.
            while (written := cast("int | None", super().write(data))) is None:
                select.select([], [self.fileno()], [])  # no limit: the reader's pace is ours
            return written
        except OSError as error:
            error.filename = STANDARD_OUTPUT
            self.failed = self.failed or error
            raise


class _Shown(io.TextIOWrapper):
    """A standard stream as text: whatever is printed there, no sequence but a colour reaches the terminal."""

    def write(self, text: str, /) -> int:
        return super().write(cleaned(text, colours=True))

    def write_exactly(self, text: str, /) -> int:
        return super().write(text)


class _ShownMasked(_Shown):
    """Standard error: what loom itself has to say, which was not recorded and masked before."""

    def write(self, text: str, /) -> int:
        return super().write(controls.hide(text))


class _Exact(io.TextIOBase):
    """Standard output for what moves the cursor on purpose; the caller cleans what it shows there."""

    def __init__(self, stream: _Shown) -> None:
        self._stream = stream
        self.write = stream.write_exactly  # type: ignore[method-assign]
        self.flush = stream.flush  # type: ignore[method-assign]
        self.fileno = stream.fileno  # type: ignore[method-assign]
        self.isatty = stream.isatty  # type: ignore[method-assign]

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding


def exact() -> TextIO:
    return cast("TextIO", _Exact(sys.stdout)) if isinstance(sys.stdout, _Shown) else sys.stdout


def complete() -> None:
    """Whoever starts us may have closed some of them (`>&-`, a service manager); else a file of ours would take the place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115  as Python does
    output = _Output(1, "w", closefd=False)
    output.terminal = output.isatty()
    sys.stdout = _as_text(_Shown, output, sys.stdout)
    sys.stderr = _as_text(_ShownMasked, io.FileIO(2, "w", closefd=False), sys.stderr)


def _as_text(kind: type[_Shown], file: io.FileIO, like: TextIO) -> _Shown:
    assert isinstance(like, io.TextIOWrapper)
    return kind(
        io.BufferedWriter(file),
        encoding=like.encoding,
        errors=like.errors,
        line_buffering=like.line_buffering,
        write_through=like.write_through,
    )


def written(hint: str | None = None) -> None:
    """Write what is held back. InfrastructureError, with this `hint`, when standard output did not take all of it.

    That nobody reads any more is no error.
    """
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        pass  # reported below
    output = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(output, _Output) and output.failed is not None and not output.left:
        raise unwritable(output.failed, hint)


def unwritable(error: OSError, hint: str | None = None) -> InfrastructureError:
    return InfrastructureError(
        f"{STANDARD_OUTPUT} can't be written: {error.strerror}",
        hint=hint or "free some space on that device, or redirect output elsewhere",
        code="OUTPUT_UNWRITABLE",
    )
