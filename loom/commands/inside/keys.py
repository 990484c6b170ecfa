"""Single keys of a person at the terminal, while nobody else reads it."""

from __future__ import annotations

import os
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from loom.util.within import readable

HANGUP = ""
"""Stands for the end of the terminal."""


class Keys:
    """In the block, calls `on_key` from a thread for each key; never where standard input is no terminal."""

    def __init__(self, on_key: Callable[[str], None]) -> None:
        self._tell = on_key
        self._there = sys.stdin.isatty()
        self._thread: threading.Thread | None = None
        self._wake: tuple[int, int] = (-1, -1)
        self._before: list[Any] = []

    def __enter__(self) -> Keys:
        if self._there:
            self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Leave the terminal, as it was, to others for the block."""
        self._end()
        try:
            yield
        finally:
            if self._there:
                self._begin()

    def _begin(self) -> None:
        try:
            self._before = list(termios.tcgetattr(0))
            tty.setcbreak(0, termios.TCSADRAIN)
        except termios.error:
            self._tell(HANGUP)
            return
        self._wake = os.pipe()
        self._thread = threading.Thread(target=self._read, args=(self._wake[0],), name="keys", daemon=True)
        self._thread.start()

    def _end(self) -> None:
        if self._thread is None:
            return
        os.close(self._wake[1])
        self._thread.join()  # no limit: the closed pipe ends its wait
        os.close(self._wake[0])
        self._thread = None
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(0, termios.TCSADRAIN, self._before)

    def _read(self, wake: int) -> None:
        while wake not in readable((0, wake), None):  # no limit: a person may take any time
            try:
                typed = os.read(0, 1)
            except OSError:
                typed = b""
            self._tell(typed.decode("ascii", "replace"))
            if not typed:
                return
