"""The look of a person's terminal: colours, characters, and how much is printed."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from loom.commands.terminal import exact
from loom.render.look import Detail, Look
from loom.status import Stream
from loom.util.controls import cleaned
from loom.util.masking import Masker, known


def screen_parts(
    color: str, *, quiet: bool = False, verbose: bool = False, stream: bool = False
) -> tuple[Look, Callable[..., None]]:
    """Return the look of standard output, and a function that writes lines there."""
    out = sys.stdout
    on_terminal = out.isatty()
    coloured = color == "always" or (color == "auto" and on_terminal and os.environ.get("TERM") != "dumb")
    encoding = (out.encoding or "").lower().replace("-", "")
    look = Look(
        detail=Detail.QUIET if quiet else Detail.VERBOSE if verbose else Detail.NORMAL,
        stream=stream,
        unicode=encoding.startswith("utf"),
        paint=paint if coloured else None,
        columns=shutil.get_terminal_size().columns if on_terminal else None,
    )

    def write(*lines: str) -> None:
        for line in lines:
            text = cleaned(line, colours=coloured)
            out.write(text.encode(out.encoding or "utf-8", "replace").decode(out.encoding or "utf-8") + "\n")
            out.flush()

    return look, write


class MaskedProgress:
    """Masked output of loom's own work on standard error: standard output belongs to the result."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.masker = known(Masker())
        self._quiet = quiet

    def __call__(self, _stream: Stream, data: bytes) -> None:
        if not self._quiet:
            sys.stderr.write(self.masker.mask_bytes(data).decode("utf-8", "replace"))
            sys.stderr.flush()


@contextmanager
def progress_line(text: str = "", *, wanted: bool = True, at_once: bool = False) -> Iterator[Callable[[str], None]]:
    """Yield a function that shows a text in one line of standard error, which is erased at the end; on a terminal only.

    `text` is shown at once.
    """
    wanted = wanted and sys.stderr.isatty()
    last = 0.0 if text or at_once else time.monotonic() + 0.2  # what is small is done before anyone could read it

    def write(text: str) -> None:
        print(f"\r\033[K{text}", end="", file=exact(sys.stderr), flush=True)

    def show(text: str) -> None:
        nonlocal last
        if wanted and time.monotonic() - last > 0.1:
            last = time.monotonic()
            write(cleaned(text))

    try:
        if text:
            show(text)
        yield show
    finally:
        if wanted:
            write("")


def paint(text: str, style: str) -> str:
    colour = {"ok": "green", "bad": "red", "warn": "yellow", "job": "cyan"}.get(style)
    return typer.style(text, fg=colour, dim=style == "dim" or None, bold=style == "bold" or None)
