"""Ask the place of a job which package has a command that is missing there, as long as the place is open."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import msgspec

from loom.analysis.known_failures import missing_command
from loom.cancel import Cancel
from loom.errors import InfrastructureError
from loom.providers.base import Inside
from loom.record.documents import CommandPackage
from loom.status import OnOutput, Stream
from loom.util.controls import visible

ASKED_FOR_S = 3.0
"""The time limit of the question. Without an index it takes as long as any command; Contents of Debian have 150 MB."""
_TAIL = 4096
_ANSWER = re.compile(r"(apt|apk) (command|name) ([A-Za-z0-9][A-Za-z0-9.+_-]{0,99})")
"""The image decides what is printed, and a person may paste it: a package's name, and nothing else."""


class Ending:
    """The last bytes of what a step prints."""

    def __init__(self) -> None:
        self._bytes = b""

    def watching(self, on_output: OnOutput) -> OnOutput:
        """Return an `OnOutput` that passes everything on."""

        def both(stream: Stream, data: bytes) -> None:
            on_output(stream, data)
            self._bytes = (self._bytes[-_TAIL:] + data[-_TAIL:])[-_TAIL:]

        return both

    @property
    def lines(self) -> list[str]:
        return [visible(line) for line in self._bytes.decode("utf-8", "replace").splitlines()]


def package_of_missing(ending: Ending, inside: Callable[[], Inside], cancel: Cancel) -> CommandPackage | None:
    """Return the package of the command that a step with exit code 127 missed; None where no index in the image knows it.

    A place that does not answer is no failure: the step has its result.
    """
    name = missing_command(ending.lines)
    if name is None:
        return None
    heard = b""

    def hear(stream: Stream, data: bytes) -> None:
        nonlocal heard
        heard = (heard + data)[:_TAIL]

    with suppress(InfrastructureError, OSError):
        question = ["sh", "-c", _script(), "loom", name]
        inside().exec(question, hear, cancel, timeout_s=ASKED_FOR_S, grace_s=0.0, stdin=False)
    answer = _ANSWER.fullmatch(heard.decode("utf-8", "replace").strip())
    if answer is None:
        return None
    manager, by, package = answer.groups()
    return msgspec.convert({"command": name, "manager": manager, "by": by, "package": package}, CommandPackage)


@cache
def _script() -> str:
    return Path(__file__).with_name("which_package.sh").read_text()
