"""Diagnose a failed run from its documents and the lines of its output that were chosen; pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct, field
from msgspec.structs import replace

from loom.analysis import formats, known_failures, patterns
from loom.analysis.formats import Reader
from loom.analysis.history import SameInput, SinceGreen
from loom.analysis.known_failures import Cause, Failed
from loom.analysis.locations import MOST_LOCATIONS, Location, WorkingDirectories, from_root, is_foreign
from loom.analysis.named_files import Look, look_at
from loom.analysis.output import ReadLine, ReadOutput, earlier_error, lines_that_matter, telling_line, texts
from loom.analysis.patterns import FailureGroup
from loom.analysis.reproduction import reproduce_command
from loom.record.documents import DIAGNOSIS_SCHEMA, Document, Invocation, Milliseconds, Moment, Sha
from loom.record.events import Section, epoch_ns
from loom.record.unrecorded import Unrecorded
from loom.status import Code, Count, FailingTest, Failure
from loom.util import typed


class Excerpt(Document, frozen=True, kw_only=True):
    """Source lines around `line`, as the job's files were when the run ended."""

    file: str
    line: Code
    first_line: Code
    text: str


class ChangedSince(Document, frozen=True, kw_only=True):
    """The changes in the checkout since the run."""

    head_sha: Sha | None
    """The present HEAD, if it is another one."""
    files: list[str]
    files_total: Count


class EndingCommand(Document, frozen=True, kw_only=True):
    """The command that ended the step, as the step's shell reported it."""

    command: str
    exit_code: Code
    file: str | None = None
    line: Code | None = None
    calls: list[str] = field(default_factory=list)
    """The calls of functions and sourced files around it, the innermost first: `name at file:line`."""
    parts: list[Code] = field(default_factory=list)
    """The exit code of each command of a pipeline of several."""

    @property
    def text(self) -> str:
        at = f" at {self.file}:{self.line}" if self.file and self.line else ""
        called = f", called from {', '.join(self.calls)}" if self.calls else ""
        parts = f" ({', '.join(map(str, self.parts))})" if self.parts else ""
        return f"`{self.command}`{at} gave {self.exit_code}{parts}{called}"

    def is_all_of(self, script: str | None) -> bool:
        """Return whether the script has no other command; the shell tells one of several lines as one line."""
        return self.command.split() == (script or "").split()


class OtherFailure(Document, frozen=True, kw_only=True):
    job_id: str
    status: str
    manifest_path: str
    telling_line: str | None = None
    """Its own, of the first jobs that failed, in the diagnosis that the run's end records."""


class LogSource(Document, frozen=True, kw_only=True):
    """The log of a CI server that was read instead of a record, and what it says of itself."""

    name: str
    """The file or address; `-` is standard input."""
    format: Literal["gitlab", "github", "plain"]
    runner: str | None
    commit: str | None
    ref: str | None
    image_digest: str | None
    lines_total: Count


class Diagnosis(Document, frozen=True, kw_only=True):
    schema_version: Literal["loom.diagnosis.v1"] = DIAGNOSIS_SCHEMA
    kind: Literal["diagnosis"] = "diagnosis"
    run_id: str
    """Empty for a server's log."""
    log: LogSource | None = None
    state: str
    unrecorded: Unrecorded | None
    """The run that was refused and left no record; `run_id` is then its start, and `state` is `refused`."""
    previous_run_id: str | None = None
    failed: bool
    error: str | None
    error_code: str | None = None
    last_event_at: Moment | None = None
    duration_ms: Milliseconds | None
    head_sha: Sha | None
    tree_sha: Sha | None
    job_id: str | None
    job_status: str | None
    attempt: Count | None
    step: str | None
    step_location: str | None = None
    """The step's position in the workflow: `file:line`."""
    step_name: str | None = None
    """As its workflow names it, with the actions around it."""
    ended_by: EndingCommand | None = None
    """None where the shell does not report it, and for a step of one command."""
    section: str | None
    steps_total: Count | None = None
    command: str | None
    exit_code: Code | None
    allowed_failure: bool = False
    image: str | None
    lines: list[str]
    lines_total: Count | None = None
    telling_line: str | None = None
    """The line to look at first: the evidence of a cause, else an error of the command that ended the step, else its last
    line. Of a silent command: the command, and what it gave; of `exit`: of the last one before it that printed something. Of a
    job whose time was over, that could not run, or whose child pipeline failed: loom's message."""
    earlier_error: str | None = None
    """The last error before the output of the command that ended the step, which the script survived; no cause."""
    locations: list[Location]
    excerpt: Excerpt | None = None
    changed_since: ChangedSince | None = None
    """None where the checkout is as the run had it, or where that is not known."""
    failing_tests: list[FailingTest]
    failing_tests_total: Count
    failures: list[Failure]
    """The first failures in the output, by known formats of tools, and in reports of linters."""
    failures_total: Count
    groups: list[FailureGroup]
    """Failures and failing tests by cause, the most frequent first."""
    groups_total: Count
    unread_reports: list[str] = field(default_factory=list)
    """Reports of tests and linters that could not be read, each with the reason."""
    output_read: Literal["all", "highlights", "part"] = "all"
    """All lines; the last lines and all earlier ones that tell; or the last lines and some earlier ones that tell."""
    causes: list[Cause]
    since_green: SinceGreen | None = None
    """None where no earlier run is known in which the job passed."""
    same_input: SameInput | None = None
    """None where the job never passed on this input."""
    others: list[OtherFailure]
    same_failure: list[str] = field(default_factory=list)
    """The ids of those whose telling line is the same but for numbers."""
    skipped: Count
    reproduce: str
    logs_command: str | None
    receipt_path: str | None = None
    job_manifest_path: str | None = None
    events_path: str | None = None

    @property
    def shown_causes(self) -> list[Cause]:
        """All but loom's own error, which stands beside them with its next move."""
        own = (self.error_code or "").lower()
        return [cause for cause in self.causes if cause.code != own]


class Evidence(Struct, frozen=True, kw_only=True):
    """The inputs of a diagnosis; `job` is the manifest of the job to explain, or None."""

    run_id: str
    state: str
    receipt: Mapping[str, Any]
    pipeline: Mapping[str, Any]
    job: Mapping[str, Any] | None = None
    output: ReadOutput = ReadOutput()
    ended_by: Mapping[str, Any] | None = None
    formats: Sequence[Reader] | None = None
    """None: those of the table."""
    unit: tuple[str | None, str | None] = (None, None)
    """The step and section to blame if the job's manifest names none (a killed run)."""
    in_source: Look = field(default=lambda _: {})
    root: Path | None = None
    of_github: bool = False


def failing_tests_total(named: Sequence[Any], reports: Mapping[str, Any] | None) -> int:
    """Number of failed tests in the reports; the record names only the first ones."""
    return max(len(named), sum((reports or {}).get(kind) or 0 for kind in ("failures", "errors")))


def diagnose(evidence: Evidence) -> Diagnosis:
    job = evidence.job or {}
    ending = evidence.receipt if evidence.job is None else job
    status, job_id = job.get("status"), job.get("job_id")
    step = job.get("failing_step") or evidence.unit[0]
    section = None if step else job.get("failing_section") or evidence.unit[1]
    steps: list[Mapping[str, Any]] = [each for each in job.get("steps", ()) if each["step"] == step]
    of_step = max(steps, key=lambda each: each["attempt"], default={})
    tests = [FailingTest(**test) for test in job.get("failing_tests", ())]
    # A finished job has its own status while others still run; otherwise use the run's.
    failed = (status or evidence.state) not in ("success", "skipped", "running")
    output = evidence.output if failed else ReadOutput()
    command = job.get("failing_command") or of_step.get("command")
    printed = texts(output.lines)
    error = str(ending.get("error") or "") if not step or ending.get("status") == "error" else ""
    of_loom = [line for line in error.splitlines() if line not in printed]
    own = output.of("own")
    causes = _causes(evidence, ending, output, of_loom, command) if failed else []
    ended = ending_command(evidence.ended_by, of_step)
    silent = output.marked and not own and ended is not None and not ended.command.startswith(("exit", "return"))
    told_by = [] if silent else output.reason
    directory = (evidence.ended_by or {}).get("directory")
    at = WorkingDirectories(evidence.root, printed, directory=directory, command=ended.command if ended else command)
    found = [typed.convert(each, Failure) for each in job.get("findings", ())] if failed else []
    read = patterns.failures([line.printed for line in output.reason], evidence.formats or formats.readers())
    of_output = [each if each.file is None else replace(each, file=at.file(each.file)) for each in read]
    told = {(each.file, each.line) for each in of_output if each.line}
    failures = [*of_output, *(each for each in found if (each.file, each.line) not in told)]
    unnamed = (job.get("finding_reports") or {}).get("findings", 0) - len(found) if found else 0
    groups = patterns.groups(failures, tests)
    telling = None if silent else _telling_line(causes, of_output, output, at, of_loom)
    if (ending.get("status") == "timed_out" or section == Section.CHILD) and not any(cause.line for cause in causes):
        telling = ending.get("error") or telling  # what was printed did not end it, or is a child's screen
    return Diagnosis(
        run_id=evidence.run_id,
        state=evidence.state,
        unrecorded=None,
        failed=failed,
        error=ending.get("error"),
        error_code=ending.get("error_code"),
        duration_ms=evidence.receipt.get("duration_ms"),
        head_sha=evidence.receipt.get("snapshot_head_sha"),
        tree_sha=evidence.receipt.get("snapshot_tree_sha"),
        job_id=job_id,
        job_status=status,
        attempt=of_step.get("attempt"),
        step=step,
        step_location=f"{of_step['file']}:{of_step['line']}" if of_step.get("file") else None,
        step_name=of_step.get("name"),
        ended_by=None if ended is None or ended.is_all_of(command) else ended,
        section=section,
        command=command,
        exit_code=ending.get("exit_code"),
        allowed_failure=bool(job.get("allowed_failure")),
        image=(job.get("image") or {}).get("name"),
        lines=lines_that_matter(output.lines, telling=telling),
        telling_line=telling or (ended.text if ended is not None and failed else None),
        earlier_error=earlier_error(output, telling or "", command or ""),
        locations=_locations(
            [*told_by, *map(ReadLine, of_loom)], telling or "", of_step, tests, failures, ended, at, silent=silent
        )
        if failed
        else [],
        failing_tests=tests[:20],
        failing_tests_total=failing_tests_total(tests, job.get("test_reports")),
        failures=failures[: patterns.MOST_FAILURES],
        failures_total=len(failures) + max(0, unnamed),
        groups=groups[: patterns.MOST_GROUPS],
        groups_total=len(groups),
        unread_reports=[
            text
            for kind in ("test_reports", "finding_reports")
            for text in ((job.get(kind) or {}).get("problems", ()) if failed else ())
            if not text.endswith(": no such file")
        ],
        causes=causes,
        others=[
            OtherFailure(job_id=other["job_id"], status=other["status"], manifest_path=other["manifest_path"])
            for other in evidence.pipeline["jobs"]
            if other["status"] in ("failure", "error", "timed_out") and not other["allowed_failure"]
            if other["job_id"] != job_id
        ],
        skipped=sum(other["status"] == "skipped" for other in evidence.pipeline["jobs"]),
        reproduce=f"loom {'reproduce' if '://' in origin else 'replay'} {shlex.quote(origin)}"
        if (origin := evidence.receipt.get("origin"))
        else reproduce_command(typed.convert(evidence.receipt.get("invocation", {}), Invocation), job_id),
        logs_command=None
        if job_id is None
        else shlex.join(filter(None, ("loom", "logs", evidence.run_id, job_id, step or section))),
    )


def diagnose_refusal(unrecorded: Unrecorded, previous_run_id: str | None) -> Diagnosis:
    """Explain a run that left no record."""
    ending = {
        "error": "\n".join(filter(None, (unrecorded.error, unrecorded.hint))),
        "error_code": unrecorded.error_code,
        "exit_code": unrecorded.exit_code,
    }
    found = diagnose(
        Evidence(run_id=str(epoch_ns(unrecorded.at)), state="refused", receipt=ending, pipeline={"jobs": []})
    )
    again = shlex.join(unrecorded.command)
    return replace(
        found, unrecorded=unrecorded, previous_run_id=previous_run_id, locations=[], causes=[], reproduce=again
    )


def _causes(
    evidence: Evidence, ending: Mapping[str, Any], output: ReadOutput, of_loom: Sequence[str], command: str | None
) -> list[Cause]:
    job = evidence.job or {}
    exit_code = ending.get("exit_code")
    lines = [*texts(output.of("own")), *of_loom]
    failed = Failed(
        ended=job.get("status") or evidence.state,
        error=ending.get("error"),
        error_code=ending.get("error_code"),
        exit_code=exit_code,
        lines=lines,
        own=output.marked,
        before=texts(output.of("before", "said")),
        in_step=bool(job.get("failing_step") or evidence.unit[0]),
        command=command,
        image=(job.get("image") or {}).get("name"),
        in_source=look_at(lines, command, evidence.in_source, exit_code=exit_code),
        of_github=evidence.of_github,
    )
    found = known_failures.causes(failed)
    died = next((text for text in job.get("warnings", ()) if text.startswith("service ")), None)
    if died is not None and found and found[0].code in ("name_resolution", "connection_refused"):
        of_service = known_failures.causes(replace(failed, error=died, error_code=None))
        return [replace(of_service[0], line=found[0].line)]
    return found


# -- lines and locations ---------------------------------------------------------------------------------------------


def _telling_line(
    causes: Sequence[Cause],
    failures: Sequence[Failure],
    output: ReadOutput,
    at: WorkingDirectories,
    of_loom: Sequence[str],
) -> str | None:
    """Choose the line as `Diagnosis.telling_line`; the first of `of_loom`, if any, rather than one that names no error."""
    if evidence := next((cause.line for cause in causes if cause.line), None):
        return evidence
    message = next((each.message for each in failures if each.message), None)
    last = (line.text for line in reversed(output.lines) if not line.blank)
    found = telling_line(output.reason, at, message)
    if of_loom and not any(line.tells for line in output.reason if line.text == found):
        return of_loom[0]
    return found or next(last, None)


def _locations(
    lines: Sequence[ReadLine],
    telling: str,
    step: Mapping[str, Any],
    tests: Sequence[FailingTest],
    failures: Sequence[Failure],
    ended: EndingCommand | None,
    at: WorkingDirectories,
    *,
    silent: bool,
) -> list[Location]:
    """Return locations, the surest first: of a silent command that ended the step before mere mentions, else if none is named."""
    by_command = [Location(file=ended.file, line=ended.line)] if ended and ended.file and ended.line else []
    of_tests = [Location(file=t.file, line=t.line, column=None) for t in tests if t.file and t.line]
    of_tests += [
        Location(file=each.file, line=each.line, column=each.column)
        for each in failures
        if each.file and each.line and not is_foreign(each.file)
    ]
    first = ReadLine(telling)
    plain = (
        line for line in reversed(lines) if not (line.mild or (line.passes_on and not at.are_there(line.locations)))
    )
    mentions = at.resolved(each for line in (first, *plain) for each in line.locations)
    told = mentions[:1] if first.tells and first.locations else []
    found: dict[tuple[str, int], Location] = {}
    surest = by_command if silent else []
    for each in (*told, *locations_in_step(texts(lines), step), *of_tests, *surest, *mentions) or by_command:
        found.setdefault((each.file, each.line), each)
    return list(found.values())[:MOST_LOCATIONS]


def ending_command(ended: Mapping[str, Any] | None, step: Mapping[str, Any]) -> EndingCommand | None:
    """Map the lines of a step's script to those of the workflow. `ended`: an `EndedBy`, as the record has it."""
    if ended is None:
        return None
    calls = [_at(call.get("file"), call.get("line"), step) for call in ended.get("stack", ())]
    names = [call.get("function") for call in ended.get("stack", ())]
    file, line = calls[0] if calls else _at(None, ended.get("line"), step)
    if line is None:
        file, line = _at(None, ended.get("line"), step)
    around = [f"{name or 'script'} at {at}:{number}" for name, (at, number) in zip(names[1:], calls[1:], strict=True)]
    return EndingCommand(
        command=ended["command"],
        exit_code=ended["code"],
        parts=ended.get("parts", []),
        file=file,
        line=line,
        calls=[call.removeprefix("source at ").removeprefix("main at ") for call in around],
    )


def _at(file: str | None, line: int | None, step: Mapping[str, Any]) -> tuple[str | None, int | None]:
    if file is not None or line is None or not step.get("file"):
        return (None if file is None else from_root(file)), line if file is not None else None
    return str(step["file"]), int(step["line"]) + (line - 1 if step.get("literal") else 0)


_BY_SHELL = re.compile(r"(?:^|\s)\S*/step\.\d+: (?:line )?(?P<line>\d+): ")


def locations_in_step(lines: Sequence[str], step: Mapping[str, Any]) -> list[Location]:
    """Map script line numbers in shell messages to workflow lines, last one first."""
    if not step.get("file"):
        return []
    found: dict[int, Location] = {}
    for line in reversed(lines):
        if match := _BY_SHELL.search(line):
            number = int(step["line"]) + (int(match["line"]) - 1 if step.get("literal") else 0)
            found.setdefault(number, Location(file=step["file"], line=number, column=None))
    return list(found.values())
