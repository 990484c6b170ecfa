"""Read the log of a CI server's job, a stranger's text of any length, in constant memory: its commands, and why it failed."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from loom.analysis import formats
from loom.analysis.diagnosis import Diagnosis, Evidence, LogSource, diagnose
from loom.analysis.named_files import find_files_below
from loom.analysis.output import LINES_READ, output_of
from loom.plan.model import Job
from loom.record.documents import Highlights
from loom.record.events import OutputEvent
from loom.record.highlights import Highlighter
from loom.record.sections import reader_for
from loom.util import jsons
from loom.util.controls import cleaned, visible
from loom.values import Immutable

LONGEST_LINE = 1 << 16
"""Bytes of a line that are read: of a longer one, its beginning and its end."""
_FACT = 1000
"""Characters of a line in which a fact is looked for."""

LogStatus = Literal["", "success", "failure", "error", "timed_out", "canceled"]
Kind = Literal["output", "command", "section", "header", "verdict"]
"""`header`: a line with which GitHub shows a step, before its output."""


class LogLine(Struct, frozen=True):
    kind: Kind
    text: str
    """Without the server's timestamp and control sequences."""
    unit: str
    """The section of the runner, or the step; empty outside of both."""


class LogFacts(Struct, kw_only=True):
    """Facts about a job from its log; empty: none."""

    format: Literal["gitlab", "github", "plain"] = "plain"
    runner: str = ""
    commit: str = ""
    ref: str = ""
    image: str = ""
    digest: str = ""
    images: dict[str, str] = {}
    """The digest of each image that the log names, of services too."""
    depth: str = ""
    cache: str = ""
    """`restored` or `cold`, where the log names a cache."""
    directory: str = ""
    exit_code: int | None = None
    ended: LogStatus = ""
    error: str = ""
    """The runner's own words, of a job that its script did not end."""


class LogUnit(Struct, kw_only=True):
    """The end of a section or step, and the lines before it that tell."""

    name: str
    command: str = ""
    lines: deque[OutputEvent]
    total: int = 0
    before_said: int = 0
    """The number of its lines before those of the last command but one that printed something."""
    before_own: int = 0
    """And before those of the last command."""
    failed: Literal[0, 1, 2] = 0
    """1: it reported an error; 2: it ended with one."""
    marked: bool = False
    exit_code: int | None = None
    """Of a step of GitHub's."""
    highlighter: Highlighter | None = None
    highlights: Highlights = Highlights()

    def add(self, text: str) -> None:
        self.total += 1
        self.lines.append(OutputEvent(self.total, "", "stdout", text))
        if self.highlighter is not None:
            self.highlighter.feed(jsons.encode_line({"seq": self.total, "text": text, "stream": "stdout"}), 1)

    def begin(self, command: str) -> None:
        if self.total > self.before_own:
            self.before_said = self.before_own
        self.before_own, self.command, self.marked = self.total, command, True


class ServerLog(Immutable):
    """A log that was read: what it says, and the unit that failed."""

    facts: LogFacts
    unit: LogUnit
    lines_total: int


_GH_COLUMNS = re.compile(r"^[^\t]{1,200}\t(?P<step>[^\t]{0,200})\t(?=\ufeff?\d{4}-\d\d-\d\dT[\d:.]+Z)")
"""The prefix that `gh run view --log` puts before each line."""
_STAMP = re.compile(r"^\ufeff?\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z (?:[0-9a-f]{2}[EO](?P<more>[ +]))?")
_SECTION = re.compile(
    r"(?:\x1b\[0K)?section_(?P<edge>start|end):\d+:(?P<name>[\w.-]{1,100})(?:\[[^\]]*\])?\r?(?:\x1b\[0K)?"
)
_HEADER = re.compile(
    r"""(?P<prepare_executor>Preparing\ the\ ".*"\ executor)|(?P<prepare_script>Preparing\ environment)
    |(?P<get_sources>Getting\ source\ from\ )|(?P<restore_cache>Restoring\ cache)
    |(?P<download_artifacts>Downloading\ artifacts)|(?P<step_script>Executing\ "step_\w+"\ stage\ of\ the\ job\ script)
    |(?P<after_script>Running\ after.?script)|(?P<archive_cache>Saving\ cache\ for\ )
    |(?P<upload_artifacts>Uploading\ artifacts\ for\ )|(?P<cleanup_file_variables>Cleaning\ up\ project\ directory)""",
    re.VERBOSE,
)
"""The runner's titles of its sections: a log that somebody copied from a page has no other marks."""
_OF_RUNNER = re.compile(
    r"^(?:prepare_|get_sources|restore_cache|download_|step_|build_script|after_script|archive_|upload_|cleanup_)"
)
_AFTERWARDS = re.compile(r"^(?:after_script|archive_|upload_|cleanup_)")
"""Sections that do not decide how a job ends."""
_ECHO = re.compile(r"^\x1b\[32;1m\$ (?P<command>.*?)(?:\x1b\[0;?m)?$")
_ERROR_OF_GITLAB = re.compile(r"^(?:ERROR: )?Job failed(?: \((?P<kind>[^)]*)\))?: (?P<why>.*)$")
_EXIT = re.compile(r"(?:exit (?:code|status)|terminated with exit code) (?P<code>\d{1,3})\b")
_GROUP = re.compile(r"^##\[(?P<mark>group|endgroup|error)\](?P<text>.*)$")
_PASTED = re.compile(r"^Error: (?P<text>Process completed with exit code \d+\.?)$")
_COMPLETED = "Process completed with exit code "
_ENDED: tuple[tuple[str, LogStatus], ...] = (
    ("exceeded the maximum execution time", "timed_out"),
    ("The operation was canceled", "canceled"),
)
_FACTS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("runner", re.compile(r"^Running with gitlab-runner (\S+)|^Current runner version: '([^']+)'")),
    ("commit", re.compile(r"^Checking out ([0-9a-f]{7,64}) as |^HEAD is now at ([0-9a-f]{7,64})\b")),
    ("ref", re.compile(r"^Checking out \S+ as (?:detached HEAD \(ref is ([^)]+)\)|(\S+)\.\.\.)")),
    ("depth", re.compile(r"^Fetching changes with git depth set to (\d+)|^ {2}fetch-depth: (\d+)$")),
    ("directory", re.compile(r"^(?:Reini|Ini)tialized (?:empty|existing) Git repository in (/\S+)/\.git/$")),
    ("image", re.compile(r"^Using (?:Docker|Kubernetes) executor with image (\S+) |^Image: (ubuntu-\S+)$")),
)  # fmt: skip
_DIGEST = re.compile(
    r"^Using docker image sha256:[0-9a-f]+ for (?P<name>\S+) with digest \S+@(?P<digest>sha256:[0-9a-f]{64})"
    r"|^Digest: (?P<pulled>sha256:[0-9a-f]{64})$"
)
_PULL = re.compile(r"^##\[command\]\S*docker pull (?P<name>\S+)$")
"""GitHub's runner pulls job containers; the engine then tells the digest."""
_CACHED = re.compile(r"^(?:Successfully extracted cache|Cache restored (?:successfully|from key))")
_COLD = re.compile(
    r"^(?:WARNING: file does not exist|Failed to extract cache|No URL provided, cache will not be|Cache not found)"
)


def raw_lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Split into lines, each bounded by `LONGEST_LINE`."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield _text(line)
        if len(rest) > 2 * LONGEST_LINE:
            rest = rest[:LONGEST_LINE] + rest[-LONGEST_LINE:]
    if rest:
        yield _text(rest)


def _text(line: bytes) -> str:
    half = LONGEST_LINE // 2
    return (line if len(line) <= LONGEST_LINE else line[:half] + line[-half:]).decode("utf-8", "replace").rstrip("\r")


class LogReader:
    """Classify the lines of one log. `facts` fill up meanwhile."""

    def __init__(self) -> None:
        self.facts = LogFacts()
        self._unit = ""
        self._header = False
        """Whether the lines are those with which GitHub shows a step."""
        self._coloured = False
        self._pulled = ""

    def lines(self, chunks: Iterable[bytes]) -> Iterator[LogLine]:
        for line in self._whole(raw_lines(chunks)):
            yield from self._line(line)

    def _whole(self, lines: Iterable[str]) -> Iterator[str]:
        """Remove timestamps, and join what the runner divided."""
        held: str | None = None
        for line in lines:
            if columns := _GH_COLUMNS.match(line):
                line = line[columns.end() :]
            if (stamp := _STAMP.match(line)) is not None:
                line = line[stamp.end() :]
                if stamp["more"] == "+" and held is not None and len(held) < LONGEST_LINE:
                    held += line
                    continue
            if held is not None:
                yield held
            held = line
        if held is not None:
            yield held

    def _line(self, line: str) -> Iterator[LogLine]:
        if "section_" in line:
            line, marked = self._sections(line)
            if marked and not cleaned(line).strip():
                return
        plain = visible(line)
        if self.facts.format != "github" and self._read_gitlab(line, plain):
            yield LogLine("section" if not _ERROR_OF_GITLAB.match(plain) else "verdict", plain, self._unit)
        elif self.facts.format != "gitlab" and (found := self._read_github(plain)) is not None:
            yield found
        elif (command := self._command(line, plain)) is not None:
            yield LogLine("command", command, self._unit)
        else:
            self._fact(plain)
            yield LogLine("header" if self._header else "output", plain, self._unit)

    def _sections(self, line: str) -> tuple[str, bool]:
        marks = [*_SECTION.finditer(line)]
        for mark in marks:
            if _OF_RUNNER.match(mark["name"]):
                self.facts.format = "gitlab"
                self._unit = mark["name"] if mark["edge"] == "start" else ""
        return _SECTION.sub("", line), bool(marks)

    def _read_gitlab(self, line: str, plain: str) -> bool:
        """Take note of what the runner itself says in a line; return whether it is no output of the job."""
        if plain.startswith("Running with gitlab-runner "):
            self.facts.format = "gitlab"
            self._fact(plain)
            return True
        if failed := _ERROR_OF_GITLAB.match(plain):
            self.facts.format = "gitlab"
            why, code = failed["why"], _EXIT.search(failed["why"])
            if code is not None and not failed["kind"]:
                self.facts.exit_code, self.facts.ended = int(code["code"]), "failure"
            elif "took longer than" in why:
                self.facts.ended, self.facts.error = "timed_out", why
            else:
                self.facts.ended, self.facts.error = "canceled" if why == "canceled" else "error", why
            return True
        if plain == "Job succeeded":
            self.facts.ended = "success"
            return True
        if self.facts.format != "gitlab":
            return False
        header = _HEADER.match(plain)
        section = None if header is None else header.lastgroup
        if section is None or (
            self._unit == "step_script" and section != self._unit and not _AFTERWARDS.match(section)
        ):
            return False  # a script may print such a line
        self._unit = self._unit or section
        if not self._unit.startswith(section.partition("_")[0]):
            self._unit = section
        return True

    def _read_github(self, plain: str) -> LogLine | None:
        if self._unit and plain == "Post job cleanup.":
            self._unit = ""
            return LogLine("section", plain, "")
        marked = _GROUP.match(plain) or (self.facts.format != "gitlab" and _PASTED.match(plain)) or None
        if marked is None:
            return None
        self.facts.format = "github"
        mark, text = marked.groupdict().get("mark") or "error", marked["text"]
        if mark == "group" and text.startswith("Run "):
            self._unit, self._header = text.removeprefix("Run "), True
            return LogLine("section", text, self._unit)
        if mark == "endgroup":
            self._header = False
            return LogLine("section", "", self._unit)
        if mark == "error":
            self._header = False
            if (code := _EXIT.search(text)) and text.startswith(_COMPLETED):
                self.facts.exit_code = int(code["code"])
            if not self.facts.ended:
                self.facts.ended = next((ended for words, ended in _ENDED if words in text), "failure")
            ended, self._unit = self._unit, "" if text.startswith(_COMPLETED) else self._unit
            return LogLine("verdict", text, ended)
        return LogLine("section", text, self._unit)

    def _command(self, line: str, plain: str) -> str | None:
        if self.facts.format == "github" or (self._unit and not self._unit.startswith(("step_", "build_", "after_"))):
            return None
        if (echoed := _ECHO.match(line)) is not None:
            self._coloured, self.facts.format = True, "gitlab"
            return cleaned(echoed["command"])
        return plain[2:] if plain.startswith("$ ") and not self._coloured else None

    def _fact(self, plain: str) -> None:
        facts = self.facts
        if self._unit.startswith(("step_", "build_")) or len(plain) > _FACT:
            return  # a job prints what it likes
        if (pulled := _PULL.match(plain)) and not self._unit:
            self._pulled = pulled["name"]
        if (found := _DIGEST.match(plain)) and len(facts.images) < 100 and (name := found["name"] or self._pulled):
            digest = facts.images[name] = found["digest"] or found["pulled"]
            self._pulled = ""
            if facts.image in ("", name):
                facts.image, facts.digest = name, digest
        for name, pattern in _FACTS:
            if (match := pattern.match(plain)) is not None:
                value = next((group for group in match.groups() if group), "")
                if value and not getattr(facts, name):
                    setattr(facts, name, value)
        if _CACHED.match(plain):
            facts.cache = "restored"
        elif _COLD.match(plain) and not facts.cache:
            facts.cache = "cold"


def read_log(chunks: Iterable[bytes], survived: Container[str] = ()) -> ServerLog:
    """Read a log to its end. `survived`: units that do not end the job (`continue-on-error`), which the log does not tell."""
    reader, watch = LogReader(), formats.watch()

    def new(name: str) -> LogUnit:
        return LogUnit(name=name, lines=deque(maxlen=LINES_READ), highlighter=Highlighter(watch, lines=1))

    current, chosen, total = new(""), None, 0
    for line in reader.lines(chunks):
        total += line.kind != "header"
        github = reader.facts.format == "github"
        if line.unit != current.name or (github and line.kind == "section" and line.text.startswith("Run ")):
            chosen = _choose(chosen, current)
            current = new(line.unit)
        if line.kind == "command":
            current.begin(line.text)
        elif line.kind == "output":
            current.add(line.text)
        elif line.kind == "verdict" and github and current.name not in survived:
            current.exit_code = reader.facts.exit_code
            current.failed = 2 if line.text.startswith(_COMPLETED) else max(current.failed, 1)
            if current.failed == 1:
                current.add(line.text)
    unit = _choose(chosen, current)
    if reader.facts.format == "github":
        reader.facts.exit_code = unit.exit_code
    if unit.highlighter is not None:
        unit.highlights, unit.highlighter = unit.highlighter.finish(), None
    return ServerLog(facts=reader.facts, unit=unit, lines_total=total)


def _choose(chosen: LogUnit | None, next_one: LogUnit) -> LogUnit:
    """Return the unit that ended the job: the first that ended with an error, the last with one, the last that decides."""
    if chosen is None or next_one.failed > chosen.failed or next_one.failed == 1 == chosen.failed:
        return next_one
    quiet = not next_one.total and not next_one.marked
    return chosen if chosen.failed or quiet or not next_one.name or _AFTERWARDS.match(next_one.name) else next_one


def diagnosis_of_log(
    log: ServerLog, name: str, *, job: str | None = None, root: Path | None = None, again: str = ""
) -> Diagnosis:
    """Diagnose the job of a log. `name`: the file or address; `root`: a checkout in which named files are looked up."""
    facts, unit = log.facts, log.unit
    status = facts.ended or "failure"
    step = unit.name or "output"
    command = unit.command or (unit.name if facts.format == "github" else "")
    manifest: dict[str, object] = {
        "job_id": job or "log",
        "status": status,
        "exit_code": facts.exit_code,
        "error": facts.error or None,
        "failing_step": step,
        "failing_command": command or None,
        "steps": [{"step": step, "attempt": 1, "command": command}],
        "image": {"name": facts.image} if facts.image else None,
    }
    early = unit.total > len(unit.lines)
    counts = {"stdout_lines": unit.total, "stderr_lines": 0}
    own = {"stdout_lines": unit.before_own, "stderr_lines": 0}
    said = {"said_stdout_lines": unit.before_said, "said_stderr_lines": 0}
    reader = reader_for({"commands": facts.format == "github"})
    output = output_of(unit.lines, unit.highlights, counts, {**own, **said} if unit.marked else None, reader)
    ended: Mapping[str, object] | None = (
        {"command": unit.command, "code": facts.exit_code} if unit.marked and facts.exit_code is not None else None
    )
    found = diagnose(
        Evidence(
            run_id="",
            state=status,
            receipt={},
            pipeline={"jobs": []},
            job=manifest,
            output=output,
            ended_by=ended,
            root=root,
            find_files=lambda paths: find_files_below(root, paths) if root else {},
        )
    )
    stated = {key: getattr(facts, key) or None for key in ("runner", "commit", "ref")}
    digest = facts.digest or None
    source = LogSource(name=name, format=facts.format, **stated, image_digest=digest, lines_total=log.lines_total)
    return replace(
        found,
        log=source,
        job_id=job,
        step=unit.name or None,
        lines_total=unit.total,
        output_read="all" if not early else "highlights" if unit.highlights.complete else "part",
        reproduce=again,
        logs_command=None,
    )


# -- outputs of earlier jobs on GitHub, which its API lacks: read from the lines that show a later step with its values -----

_USED = re.compile(r"\bneeds\.([\w-]+)\.outputs\.([\w-]+)")
_EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}")
_MASKED = "***"

Outputs = dict[tuple[str, str], str]
"""Values of outputs, by need and name."""


def used_outputs(job: Job) -> set[tuple[str, str]]:
    """Return the needs' outputs that the job's texts refer to, as (need, name)."""
    return set(_USED.findall(jsons.encode_line(job).decode()))


def outputs_in_log(job: Job, headers: Iterable[str]) -> Outputs:
    """Return the outputs whose values appear in the lines (`headers`) that announce the job's steps."""
    templates = list(_templates(job))
    found: Outputs = {}
    for line in headers if templates else ():
        for literals, names in templates:
            values = zip(names, _split_at(line, literals), strict=False)
            found |= {name: value for name, value in values if name is not None and _MASKED not in value}
    return found


def _templates(job: Job) -> Iterator[tuple[list[str], list[tuple[str, str] | None]]]:
    """Yield the lines that use an output: the text around their expressions, and which output each of these is."""
    for text in _texts(job):
        pieces = _EXPRESSION.split(text)
        used = [_USED.fullmatch(piece.strip()) for piece in pieces[1::2]]
        if any(used):
            yield pieces[::2], [(one[1], one[2]) if one else None for one in used]


def _split_at(line: str, literals: Sequence[str]) -> list[str]:
    """Return the texts between the literals, each at its first occurrence; empty if the line does not match."""
    first, *others, last = literals
    end = len(line) - len(last)
    if not line.startswith(first) or not line.endswith(last):
        return []
    found, at = [], len(first)
    for literal in (*others, None):
        to = end if literal is None else line.find(literal, at)
        if not at <= to <= end:
            return []
        found.append(line[at:to])
        at = to + len(literal or "")
    return found


def _texts(job: Job) -> Iterator[str]:
    """Yield the lines of which the server shows the values."""
    for mapping in [
        job.env,
        *(one.env for one in job.steps),
        *(one.inputs for one in job.steps),
    ]:
        yield from (f"  {name}: {text}" for name, text in mapping.items())
    yield from (line for step in job.steps for line in step.script.splitlines())
