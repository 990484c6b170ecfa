"""Tell what ended a step, by its shell, make, the kernel or loom. Nothing is concluded from what programs print."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from msgspec.structs import replace

from loom.analysis.locations import Location, WorkingDirectories, project_path
from loom.record.documents import Document
from loom.status import Code
from loom.util.untrusted_files import read_regular

_LARGEST_SCRIPT = 1 << 20
_MOST_CANDIDATES = 5


class Ending(Document):
    """What ended the step or the run, as its shell, make, the kernel or loom itself says."""

    by: Literal["shell", "make", "kernel", "loom"]
    """Who says it."""
    says: str | None = None
    """Its words; None where a shell has nothing to say but the command and its exit code."""
    advice: str | None = None
    command: str | None = None
    exit_code: Code | None = None
    file: str | None = None
    line: Code | None = None
    candidates: list[Code] = []
    """The lines of `file` that have the command, where it is not known which of them ended the step."""
    calls: list[str] = []
    """The calls of functions, sourced files and scripts around it, the innermost first: `name at file:line`."""
    parts: list[Code] = []
    """The exit code of each command of a pipeline of several."""

    @property
    def text(self) -> str:
        """Return the command with its place and exit code, else the words."""
        if self.command is None:
            return self.says or ""
        several = f" (line {' or '.join(map(str, self.candidates))})" if self.candidates else ""
        at = (
            f" at {self.file}:{self.line}"
            if self.file and self.line
            else f" in {self.file}{several}"
            if self.file
            else ""
        )
        called = f", called from {', '.join(self.calls)}" if self.calls else ""
        parts = f" ({', '.join(map(str, self.parts))})" if self.parts else ""
        by_signal = f" ({self.signal})" if self.signal else ""
        return f"`{self.command}`{at} gave {self.exit_code}{by_signal}{parts}{called}"

    @property
    def signal(self) -> str:
        """Return how shells give a signal as the exit code; empty for another code."""
        with suppress(ValueError):
            code = self.exit_code or 0
            return f"128 + {signal.Signals(code - 128).name}" if 128 < code < 160 else ""
        return ""

    def is_all_of(self, script: str | None) -> bool:
        """Return whether the script has no other command; the shell tells one of several lines as one line."""
        return (self.command or "").split() == (script or "").split()


_FACTS: Sequence[tuple[str, Literal["kernel", "loom"], str, str]] = (
    (
        "ran out of memory",
        "kernel",
        "the container's memory ran out, and the kernel ended a process",
        "raise `resources: {memory: ...}`, or let the step use less (fewer parallel workers)",
    ),
    (
        r"the engine was lost while|connection to the (?:running )?container of job \S+ (?:was|is) lost",
        "loom",
        "the container engine, or the connection to it, went away while the job ran",
        "look at the engine (`loom doctor`, `systemctl status docker`), then run again",
    ),
    (
        "ran out of time",
        "loom",
        "",
        "look for what it waits for (a service, the network, a question), or raise the limit",
    ),
)
"""Errors of loom's without a code: who says it, the words (empty: those of the error), a next move."""
_STOPPED: Mapping[str, tuple[str, str]] = {
    "canceled": (
        "the job was stopped from outside: ^C, a signal to loom, or `fail_fast` after another job failed",
        "it did not end by itself, so nothing is known of its result; see the other jobs, or run it again",
    ),
    "interrupted": (
        "nobody recorded the end: loom was killed, or the machine went down, or its disk was full",
        "run it again; `loom logs RUN` shows the output until then",
    ),
}


def ending_of(status: str, ending: Mapping[str, Any], shell: Ending | None) -> Ending | None:
    """Return what ended a job or run with this status, as far as it is known. `ending`: its error, with code and exit code;
    `shell`: the command that the shell reported."""
    error = str(ending.get("error") or "")
    if status in _STOPPED:
        says, advice = _STOPPED[status]
        if error.startswith("interrupted in "):  # the run, after its jobs
            says, advice = error, "what they left is in the record; run it again if it is to count as a whole run"
        return Ending(by="loom", says=says, advice=advice)
    if error and ending.get("error_code"):
        says, _, advice = error.partition("\n")
        return Ending(by="loom", says=says, advice=advice or None)
    for pattern, by, words, advice in _FACTS:
        if re.search(pattern, error):
            told = shell or Ending(by=by, exit_code=ending.get("exit_code"))
            return replace(told, by=by, says=words or error, advice=advice)
    return shell


# -- the shell ------------------------------------------------------------------------------------------------------------

_BY_SHELL = re.compile(r"(?:^|\s)(?P<file>[\w./+-]+): (?:line )?(?P<line>\d+): *(?P<words>.+)")
_OF_STEP = re.compile(r"(?:^|/)step\.\d+\Z")
_ABOUT = re.compile(
    r"\d+ (?:[A-Z][a-z]+ )+ *(?P<killed>.+)|(?:(?:exec|cd|\.): |can't cd to |cannot (?:open|create) )*(?P<name>[^:]+?)(?::|$)"
)
"""What a shell's message is about: a command that a signal ended, or a name."""


NOT_RUN = re.compile(r"(?:^|: )(?:command )?not found$|: (?:Permission denied|cannot execute)")
"""The words for a command that could not run, which then gives 126 or 127."""


def by_shell(
    ended: Mapping[str, Any] | None, step: Mapping[str, Any], own: Sequence[str] = (), root: Path | None = None
) -> Ending | None:
    """Return the command that ended a step, with the lines of its script mapped to those of the workflow. `ended`: an
    `EndedBy`, as the record has it; `own`: the lines that the command printed, in which the shell may say more; `root`: the
    job's files, in which a line that the shell did not know is looked for."""
    if ended is None:
        return None
    calls = [_workflow_position(call.get("file"), call.get("line"), step) for call in ended.get("stack", ())]
    names = [call.get("function") for call in ended.get("stack", ())]
    file, line = calls[0] if calls else _workflow_position(None, ended.get("line"), step)
    if file is None:
        file, line = _workflow_position(None, ended.get("line"), step)
    candidates = list[int]()
    if calls and line is None and file is not None and root is not None and not file.startswith("/"):
        candidates = _lines_with(root / file, ended["command"], names[0])
        line = candidates.pop() if len(candidates) == 1 else None
    around = [f"{name or 'main'} at {at}:{number}" for name, (at, number) in zip(names[1:], calls[1:], strict=True)]
    return Ending(
        by="shell",
        says=_words(ended, own),
        command=ended["command"],
        exit_code=ended["code"],
        parts=ended.get("parts", []),
        file=file,
        line=line,
        candidates=candidates[:_MOST_CANDIDATES],
        calls=[call.removeprefix("source at ").removeprefix("main at ") for call in around],
    )


def _lines_with(path: Path, command: str, function: str | None) -> list[int]:
    """Return the lines of a script that have the command, in a function those of its body."""
    try:
        lines = read_regular(path, at_most=_LARGEST_SCRIPT).decode("utf-8", "replace").splitlines()
    except (OSError, ValueError):
        return []
    first, last = 1, len(lines)
    if function not in (None, "main", "source"):
        name = re.escape(function or "")
        begins = re.compile(rf"\s*(?:{name}\s*\(\)|function\s+{name}\b)")
        first = next((number for number, line in enumerate(lines, 1) if begins.match(line)), 1)
        last = next((number for number in range(first, last + 1) if lines[number - 1].startswith("}")), last)
    written = re.compile(re.escape(command) + r"(?!\w)")
    return [
        number
        for number, line in enumerate(lines[first - 1 : last], first)
        if not line.lstrip().startswith("#") and written.search(" ".join(line.split()))
    ]


def _words(ended: Mapping[str, Any], own: Sequence[str]) -> str | None:
    """Return the shell's own message about the command: it has the command's place, and a word of it."""
    inner: Mapping[str, Any] = next(iter(ended.get("stack", ())), ended)
    place = (project_path(inner["file"]) if inner.get("file") else None, inner.get("line"))
    for line in reversed(own):
        if (match := _BY_SHELL.search(line)) is None:
            continue
        file = None if _OF_STEP.search(match["file"]) else project_path(match["file"])
        about = _ABOUT.match(match["words"])
        name = about and (about["killed"] or about["name"]).strip()
        if NOT_RUN.search(match["words"]) and ended["code"] not in (126, 127):
            continue  # of a command that the list survived
        if name and name in ended["command"] and (file, int(match["line"])) == place:
            return match["words"].strip()
    return None


def is_silent(command: str | None) -> bool:
    """Return whether the command prints nothing of its failure."""
    return _SILENT.match((command or "").strip()) is not None


_BY_MAKE = re.compile(r"g?make(?:\[\d+\])?: \*\*\* \[(?P<file>[^\]:]+):(?P<line>\d+): [^\]]+\] Error (?P<code>\d+)$")
_SILENT = re.compile(r"(?:(?:exit|return|false|!|test|\[|\[\[)(?:\s|$)|\(\()")


def by_make(shell: Ending | None, own: Sequence[str], at: WorkingDirectories, root: Path | None) -> Ending | None:
    """Return the line of a recipe that ended make, if make ended the step and said so; else `shell`."""
    last = next((number for number in range(len(own) - 1, -1, -1) if own[number].strip()), -1)
    match = None
    while last >= 0 and (found := _BY_MAKE.match(own[last])) is not None:
        match, last = found, last - 1
        if last >= 0 and "]: Leaving directory" in own[last]:
            last -= 1
    if match is None or root is None or (shell is not None and "make" not in (shell.command or "")):
        return shell
    file, line = at.file(match["file"]), int(match["line"])
    try:
        lines = read_regular(root / file, at_most=_LARGEST_SCRIPT).decode("utf-8", "replace").splitlines()
    except (OSError, ValueError):
        return shell
    rest = iter(lines[line - 1 :])
    recipe = next(rest, "").lstrip("\t @-+")
    while recipe.endswith("\\"):
        recipe = f"{recipe[:-1].rstrip()} {next(rest, '').strip()}"
    calls = [f"make at {shell.file}:{shell.line}"] if shell is not None and shell.file and shell.line else []
    ended = Ending(by="make", command=recipe, exit_code=int(match["code"]), file=file, line=line, calls=calls)
    return ended if recipe else shell


def _workflow_position(file: str | None, line: int | None, step: Mapping[str, Any]) -> tuple[str | None, int | None]:
    if file is not None or line is None or not step.get("file"):
        return (None if file is None else project_path(file)), line if file is not None else None
    return str(step["file"]), int(step["line"]) + (line - 1 if step.get("literal") else 0)


_IN_STEP = re.compile(r"(?:^|\s)\S*/step\.\d+: (?:line )?(?P<line>\d+): ")


def locations_in_step(lines: Sequence[str], step: Mapping[str, Any]) -> list[Location]:
    """Map script line numbers in shell messages to workflow lines, last one first."""
    if not step.get("file"):
        return []
    found: dict[int, Location] = {}
    for line in reversed(lines):
        if match := _IN_STEP.search(line):
            number = int(step["line"]) + (int(match["line"]) - 1 if step.get("literal") else 0)
            found.setdefault(number, Location(file=step["file"], line=number, column=None))
    return list(found.values())
