"""Read a builder's output, and find the reason of a failed build in it."""

from __future__ import annotations

import re

from loom.errors import ImageError
from loom.status import OnOutput


class Tail:
    """Passes a builder's output on and keeps its end, which has the reason of a failure."""

    def __init__(self, on_output: OnOutput) -> None:
        self._on_output = on_output
        self._half = b""
        self._last = b""

    def feed(self, chunk: bytes) -> None:
        # Whole lines, without the empty ones between a builder's paragraphs.
        *lines, self._half = (self._half + chunk).split(b"\n")
        output = b"".join(line + b"\n" for line in lines if line.strip())
        if output:
            self._on_output("stdout", output)
        self._last = (self._last + chunk)[-4096:]

    def end(self) -> None:
        if self._half.strip():
            self._on_output("stdout", self._half + b"\n")

    def failure(self) -> tuple[int | None, str | None, str]:
        """Return the failed Dockerfile line and instruction, if reported, and the message."""
        return what_failed(self._last.decode(errors="replace"))


def what_failed(output: str) -> tuple[int | None, str | None, str]:
    """Return line, instruction and message from the end of a builder's output (BuildKit's or the classic one's)."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("ERROR: ", "error: "))]
    words = (
        (errors or lines or ["the builder printed no reason"])[-1]
        .removeprefix("ERROR: ")
        .removeprefix("failed to solve: ")
    )
    if marked := re.findall(r"^ *(\d+) \| >>> (.*)$", output, re.MULTILINE):
        number, instruction = marked[0]
        return int(number), instruction.strip(), words
    steps = re.findall(r"^Step \d+/\d+ : (.*)$", output, re.MULTILINE)
    return None, steps[-1].strip() if steps else None, words


def build_failed(place: str, line: int | None, instruction: str | None, words: str) -> ImageError:
    place += f":{line}" if line is not None else ""
    at = f" at `{instruction}`" if instruction else ""
    hint = "Its whole output is in the section image_build."
    if "docker/dockerfile" in words:
        hint = "Its `# syntax=` line asks a registry for the builder's front end. Most builders' own will do: leave it out."
    return ImageError(f"{place}: the build failed{at}: {words}", hint=hint, code="IMAGE_BUILD_FAILED")
