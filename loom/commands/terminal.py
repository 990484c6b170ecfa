"""The process's standard streams: always open, and named in write errors."""

from __future__ import annotations

import errno
import io
import os
import select
import stat
import sys
from typing import TYPE_CHECKING, Any, TextIO, cast

from loom.errors import InfrastructureError
from loom.record.lines import STANDARD_OUTPUT
from loom.util import controls
from loom.util.controls import cleaned

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Output(io.FileIO):
    """Standard output. Errors name it; the first is kept, so that writers can continue and the end reports it."""

    failed: OSError | None = None

    @property
    def left(self) -> bool:
        """Return whether the reader is gone: of a pipe, or a closed terminal window."""
        error = self.failed
        if error is None or error.errno != errno.EIO:
            return isinstance(error, BrokenPipeError)
        return stat.S_ISCHR(os.fstat(self.fileno()).st_mode)  # a terminal that is closed is no terminal any more

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            # None: another user of the terminal or pipe made it non-blocking, and it is full.
            while (written := cast("int | None", super().write(data))) is None:
                select.select([], [self.fileno()], [])  # no limit: the reader sets the pace
            return written
        except OSError as error:
            error.filename = STANDARD_OUTPUT
            self.failed = self.failed or error
            raise


class _Messages(io.FileIO):
    """Standard error. What nobody can read is dropped: it says nothing about the command, whose exit code stays."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


class _Shown(io.TextIOWrapper):
    """A standard stream as text; only colour sequences reach the terminal."""

    def write(self, text: str, /) -> int:
        return super().write(cleaned(text, colours=True))

    def write_exactly(self, text: str, /) -> int:
        return super().write(text)


class _ShownMasked(_Shown):
    """Standard error, for messages of loom that were not recorded and masked before."""

    def write(self, text: str, /) -> int:
        return super().write(controls.hide(text))


class _Exact:
    """A standard stream for cursor movement; the caller cleans the text."""

    def __init__(self, stream: _Shown) -> None:
        self._stream = stream
        self.write = stream.write_exactly

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def exact(stream: TextIO | None = None) -> TextIO:
    """Return standard output, or standard error, without cleaning."""
    stream = stream or sys.stdout
    return cast("TextIO", _Exact(stream)) if isinstance(stream, _Shown) else stream


def attended() -> bool:
    """Return whether a person is at both ends: standard input and output are a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def complete() -> None:
    """Open closed standard streams (`>&-`, a service manager); otherwise one of loom's files would take their number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115  as Python does
    sys.stdout = _text_stream(_Shown, _Output(1, "w", closefd=False), sys.stdout)
    sys.stderr = _text_stream(_ShownMasked, _Messages(2, "w", closefd=False), sys.stderr)


def _text_stream(kind: type[_Shown], file: io.FileIO, like: TextIO) -> _Shown:
    assert isinstance(like, io.TextIOWrapper)
    return kind(
        io.BufferedWriter(file),
        encoding=like.encoding,
        errors=like.errors,
        line_buffering=like.line_buffering,
        write_through=like.write_through,
    )


def written(hint: str | None = None) -> None:
    """Flush standard output. InfrastructureError with this `hint` if it failed, except when the reader is gone."""
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
