"""Read from the output of a step the command that ended it, and the coverage that it prints."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from loom.providers.driver.endings import CommandMark, ended_by
from loom.status import EndedBy, Exit, OnOutput, Stream
from loom.util.controls import cleaned
from loom.workflow.patterns import Search, SearchError, pattern_of

SILENT = frozenset(("exit", "return", "false", "!", "test", "[", "[[", "(("))
"""Commands that print nothing, by their first word."""
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_LONGEST = 1 << 16
"""The part of a line that is examined, in bytes: the end of a longer one."""


class OwnOutput:
    """Notes where commands begin in a step's output (`Command.began`). `counts`: the writer's, which grow."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self._counts = counts
        self._begun: dict[Stream, list[tuple[int, str, int]]] = {"stdout": [], "stderr": []}

    def began(self, stream: Stream, line: int, word: str) -> None:
        self._begun[stream].append((line, word, self._counts[f"{stream}_lines"]))

    def ended_by(self, script: str, exit_: Exit) -> EndedBy | None:
        """Return the command that ended the step, with the number of lines before its own output, as far as known."""
        pairs = zip(self._begun["stdout"], self._begun["stderr"], strict=False)
        marks = [CommandMark(line, word, before, of_stderr) for (line, word, before), (_, _, of_stderr) in pairs]
        found = ended_by(exit_.reports, marks, script, exit_.code)
        if found is None:
            return None
        # A subshell has no mark of its own: its output is part of what follows the last one.
        last = marks[-1] if marks and marks[-1].line else None
        mark = next((mark for mark in marks if mark.line == found.line), last)
        is_silent = found.command.partition(" ")[0] in SILENT and not found.stack
        if is_silent and (mark is None or mark.word in SILENT):
            return self._with_last_command(found, marks)
        if mark is None:
            return found
        return replace(found, stdout_lines=mark.stdout_lines, stderr_lines=mark.stderr_lines)

    def _with_last_command(self, found: EndedBy, marks: Sequence[CommandMark]) -> EndedBy:
        out, err = self._counts["stdout_lines"], self._counts["stderr_lines"]
        said = next((each for each in reversed(marks) if (each.stdout_lines, each.stderr_lines) != (out, err)), None)
        return replace(
            found,
            stdout_lines=out,
            stderr_lines=err,
            said_stdout_lines=None if said is None else said.stdout_lines,
            said_stderr_lines=None if said is None else said.stderr_lines,
        )


class Coverage:
    """Looks for the number in the last line that matches, as in GitLab. PatternError for an invalid pattern.

    `problem` has the reason why it gave up: a pattern of the workflow may take any time.
    """

    def __init__(self, pattern: str) -> None:
        self._search = Search(pattern_of(pattern))
        self.problem: str | None = None
        self._rest: dict[Stream, bytes] = {}
        self.percent: float | None = None

    def watching(self, on_output: OnOutput) -> OnOutput:
        """Return an `OnOutput` that passes everything on."""

        def both(stream: Stream, data: bytes) -> None:
            on_output(stream, data)
            *lines, rest = (self._rest.get(stream, b"") + data).split(b"\n")
            self._rest[stream] = rest[-_LONGEST:]
            for line in lines:
                self._look_at(line)

        return both

    def end(self) -> None:
        """Look at lines without an end: a step is over."""
        for rest in self._rest.values():
            self._look_at(rest)
        self._rest.clear()

    def _look_at(self, line: bytes) -> None:
        if self.problem is not None:
            return
        text = cleaned(line.decode("utf-8", "replace"))
        try:
            for found in self._search.all_in(text):
                number = _NUMBER.search(next((group for group in found.groups() if group), found[0]))
                if number is not None:
                    self.percent = float(number[0])
        except SearchError as error:
            self.problem, self.percent = str(error), None
