"""Diagnose a failed run from its documents and the lines of its output that were chosen; pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from msgspec import field
from msgspec.structs import replace

from loom.analysis import formats, patterns
from loom.analysis.ending import NOT_RUN, Ending, by_make, by_shell, ending_of, is_silent, locations_in_step
from loom.analysis.history import SameInput, SinceGreen
from loom.analysis.locations import MOST_LOCATIONS, Location, WorkingDirectories, is_foreign
from loom.analysis.named_files import FileFinder, find_named_files
from loom.analysis.output import (
    ReadLine,
    ReadOutput,
    earlier_error,
    known_at_end,
    lines_that_matter,
    telling_line,
    texts,
)
from loom.analysis.patterns import FailureGroup
from loom.analysis.readings import LineContext, LineReading, reading_by_source, reading_of
from loom.analysis.reproduction import reproduce_command
from loom.record.documents import DIAGNOSIS_SCHEMA, Document, Milliseconds, Moment, Sha
from loom.record.events import Section, epoch_ns
from loom.record.highlights import form_of
from loom.record.request import Request
from loom.record.store import GOES_ON
from loom.record.unrecorded import Unrecorded
from loom.status import Code, Count, FailingTest, Failure, failing_tests_total
from loom.util import typed
from loom.values import Immutable


class Excerpt(Document):
    """Source lines around `line`, as the job's files were when the run ended."""

    file: str
    line: Code
    first_line: Code
    text: str


class ChangedSince(Document):
    """The changes in the checkout since the run."""

    head_sha: Sha | None
    """The present HEAD, if it is another one."""
    files: list[str]
    files_total: Count


class OtherFailure(Document):
    job_id: str
    status: str
    manifest_path: str
    telling_line: str | None = None
    """Its `Diagnosis.told`, of the first jobs that failed, in the diagnosis that the run's end records."""
    location: Location | None = None
    """Its first location, likewise."""

    @property
    def failure(self) -> tuple[object, ...]:
        """Return what jobs have in common that failed in the same way at the same place."""
        if self.telling_line is None:
            return (self.job_id,)
        return form_of(self.telling_line) if self.location else self.telling_line, self.location


class LogSource(Document):
    """The log of a CI server that was read instead of a record, and what it says of itself."""

    name: str
    """The file or address; `-` is standard input."""
    format: Literal["gitlab", "github", "plain"]
    runner: str | None
    commit: str | None
    ref: str | None
    image_digest: str | None
    lines_total: Count


class Diagnosis(Document):
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
    ended_by: Ending | None = None
    """None where nobody who knows it says it."""
    beside: list[str] = []
    """Facts of the same time of which it is not known that they ended the step: a service that ended, errors of services, a
    process that was killed or not started, background processes that printed."""
    section: str | None
    command: str | None
    exit_code: Code | None
    allowed_failure: bool = False
    image: str | None
    lines: list[str]
    lines_total: Count | None = None
    telling_line: str | None = None
    """The line to look at first: one whose meaning is known, else an error of the command that ended the step, else its last
    line. Of a silent command: the command, and what it gave; of `exit`: of the last one before it that printed something. Of a
    job whose time was over, that could not run, or whose child pipeline failed: loom's message."""
    survived: bool = False
    """Whether the telling line was printed before the command that ended the step began."""
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
    """Failures and failing tests by kind, the most frequent first."""
    groups_total: Count
    unread_reports: list[str] = []
    """Reports of tests and linters that could not be read, each with the reason."""
    output_read: Literal["all", "highlights", "part"] = "all"
    """All lines; the last lines and all earlier ones that tell; or the last lines and some earlier ones that tell."""
    readings: list[LineReading]
    """The meaning of the telling line, which claims no more; empty where the line is not known to be of what ended the step."""
    since_green: SinceGreen | None = None
    """None where no earlier run is known in which the job passed."""
    same_input: SameInput | None = None
    """None where the job never passed on this input."""
    others: list[OtherFailure]
    same_failure: list[str] = []
    """The ids of those that failed in the same way at the same place."""
    skipped: Count
    reproduce: str
    logs_command: str | None
    receipt_path: str | None = None
    job_manifest_path: str | None = None
    events_path: str | None = None

    @property
    def told(self) -> str | None:
        """Return the telling line; one that the script survived with the command that ended the step before it."""
        by = self.ended_by.text if self.survived and self.ended_by is not None else ""
        return f"{by}; before that: {self.telling_line}" if by and self.telling_line else self.telling_line

    @property
    def own_failure(self) -> OtherFailure:
        """Return the job's own, as the diagnosis of another job has it."""
        first = next(iter(self.locations), None)
        return OtherFailure(
            job_id=self.job_id or "",
            status=self.job_status or "",
            manifest_path="",
            telling_line=self.told,
            location=first,
        )


class Evidence(Immutable):
    """The inputs of a diagnosis; `job` is the manifest of the job to explain, or None."""

    run_id: str
    state: str
    receipt: Mapping[str, Any]
    pipeline: Mapping[str, Any]
    job: Mapping[str, Any] | None = None
    output: ReadOutput = ReadOutput()
    ended_by: Mapping[str, Any] | None = None
    unit: tuple[str | None, str | None] = (None, None)
    """The step and section to blame if the job's manifest names none (a killed run)."""
    find_files: FileFinder = field(default=lambda _: {})
    root: Path | None = None
    of_github: bool = False
    depth: int = 0


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
    failed = (status or evidence.state) not in ("success", "skipped", *GOES_ON)
    output = evidence.output if failed else ReadOutput()
    command = job.get("failing_command") or of_step.get("command")
    printed = texts(output.lines)
    error = str(ending.get("error") or "") if not step or ending.get("status") == "error" else ""
    of_loom = [line for line in error.splitlines() if line not in printed]
    own = output.of("own")
    ended = by_shell(evidence.ended_by, of_step, texts(own), evidence.root)
    at = WorkingDirectories(
        evidence.root,
        printed,
        directory=(evidence.ended_by or {}).get("directory"),
        command=(ended.command if ended else None) or command,
    )
    ended = by_make(ended, texts(own), at, evidence.root)
    made = ended if ended is not None and ended.by == "make" else None
    quiet = ended is not None and bool(ended.calls or not (ended.command or "").startswith(("exit", "return")))
    silent = (output.marked and not own and quiet) or (made is not None and is_silent(made.command))
    told_by = [] if silent else output.reason
    found = [typed.convert(each, Failure) for each in job.get("findings", ())] if failed else []
    read = patterns.failures([line.printed for line in output.reason], formats.readers())
    of_output = [each if each.file is None else replace(each, file=at.file(each.file)) for each in read]
    told = {(each.file, each.line) for each in of_output if each.line}
    failures = [*of_output, *(each for each in found if (each.file, each.line) not in told)]
    unnamed = (job.get("finding_reports") or {}).get("findings", 0) - len(found) if found else 0
    groups = patterns.groups(failures, tests)
    place = LineContext(
        ended=status or evidence.state,
        image=(job.get("image") or {}).get("name"),
        of_github=evidence.of_github,
        depth=evidence.depth,
    )
    readings = _Readings(evidence, place, command, ending.get("exit_code"))
    background = bool((evidence.ended_by or {}).get("background"))
    says = ended.says if ended is not None else None
    known = (
        None
        if silent
        else next((line for line in reversed(texts(own)) if says and says in line), None)
        or known_at_end(output.reason, lambda line: bool(readings.of(line)), (ended and ended.command) or command or "")
    )
    not_run = bool(known and ending.get("exit_code") in (126, 127) and not background and NOT_RUN.search(known))
    telling = None if silent else known or _telling_line(of_output, output, at, of_loom)
    read_line = (
        readings.of(known)
        if known and failed and (_is_read(output, known, command, ended, background=background) or not_run)
        else []
    )
    if (ending.get("status") == "timed_out" or section == Section.CHILD) and not read_line:
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
        ended_by=ending_of(status or evidence.state, ending, ended) if failed else None,
        beside=_side_facts(job, step, str(ending.get("error") or ""), background=background) if failed else [],
        section=section,
        command=command,
        exit_code=ending.get("exit_code"),
        allowed_failure=bool(job.get("allowed_failure")),
        image=(job.get("image") or {}).get("name"),
        lines=lines_that_matter(output.lines, telling=telling),
        telling_line=telling or (ended.text if ended is not None and failed else None),
        survived=bool(telling and output.marked and any(each.text == telling for each in output.of("before", "said")))
        and all(each.text != telling for each in own),
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
        readings=read_line,
        others=[
            OtherFailure(job_id=other["job_id"], status=other["status"], manifest_path=other["manifest_path"])
            for other in evidence.pipeline["jobs"]
            if other["status"] in ("failure", "error", "timed_out") and not other["allowed_failure"]
            if other["job_id"] != job_id
        ],
        skipped=sum(other["status"] == "skipped" for other in evidence.pipeline["jobs"]),
        reproduce=f"loom {'reproduce' if '://' in origin else 'replay'} {shlex.quote(origin)}"
        if (origin := evidence.receipt.get("origin"))
        else reproduce_command(typed.convert(evidence.receipt.get("invocation", {}), Request), job_id),
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
        found, unrecorded=unrecorded, previous_run_id=previous_run_id, locations=[], readings=[], reproduce=again
    )


class _Readings:
    """The readings of lines of a job's output, each asked for once."""

    def __init__(self, evidence: Evidence, place: LineContext, command: str | None, exit_code: int | None) -> None:
        lines = texts(evidence.output.of("own"))
        self._seen = find_named_files(lines, command, evidence.find_files, exit_code=exit_code)
        self._place = place

    def of(self, line: str) -> list[LineReading]:
        """Return what the line means: what the checkout shows of the file that it names, else what its words say."""
        if self._place.ended in ("failure", "error") and (seen := self._seen.get(line)) is not None:
            return [reading_by_source(line, seen)]
        found = reading_of(line, self._place)
        return [] if found is None else [found]


_SEVERAL = re.compile(r"[;|\n]|(?<!&)&(?!&)|^!\s|\$\(|`")
"""In a script with one of these, a command may fail and the script go on."""
_NO_COMMAND = 127
"""The code of a shell, and of make, for a command that is not there."""
_NOT_FOUND = re.compile(r": (?:command )?not found$|^g?make(?:\[\d+\])?: .*: No such file or directory$")
_LIST = re.compile(r";|\|\|")
"""In what a shell tells as one command: it was a part of it."""


def _is_read(output: ReadOutput, line: str, script: str | None, ended: Ending | None, *, background: bool) -> bool:
    """Return whether the line is one of the command that ended the step, not of one that the script survived, or in the
    `background`."""
    if (
        background
        or is_silent(ended.command if ended else script)
        or (ended is not None and ended.command and _LIST.search(ended.command))
    ):
        return False
    if (
        ended is not None and ended.by == "make"
    ):  # it shows a recipe's line before its output, if the recipe does not say otherwise
        own = texts(output.of("own"))
        recipe = ended.command or ""
        if ended.exit_code == _NO_COMMAND:
            return _NOT_FOUND.search(line) is not None
        return recipe in own and line in own[own.index(recipe) :] and not _SEVERAL.search(recipe)
    alone = ended is None or not ended.command or ended.is_all_of(script)
    if output.marked:
        if not any(each.text == line for each in output.of("own")):
            return False
        # A mark is of a line: of several commands in one line, each may have printed it.
        lines = (
            [each.partition(ended.command) for each in (script or "").splitlines()] if ended and ended.command else []
        )
        if alone or not any(found and _SEVERAL.search(f"{before} {after}") for before, found, after in lines):
            return True
    if not alone and ended is not None and ended.command:  # a line with its name, and what it works on
        tool, _, about = line.partition(": ")
        of_it = ended.command.startswith(f"{tool} ") and about.split(": ")[0] in ended.command
        return of_it or bool(ended.says and ended.says in line)
    return not _SEVERAL.search((script or "").strip())


def _side_facts(job: Mapping[str, Any], step: str | None, error: str, *, background: bool) -> list[str]:
    """Return the job's warnings of this step and of its services, processes that could not start, and whether processes in the
    background were printing."""
    told = ["processes in the background had the same output, so a line may be theirs"] if background else []
    if (at := error.find(_NO_PROCESS)) >= 0:
        told.append(f"{error[at:]}: raise `resources: {{pids: ...}}`, or let the step start fewer")
    return told + [text for text in job.get("warnings", ()) if text.startswith(("service ", f"{step}: "))]


_NO_PROCESS = "the job's container had as many processes"


# -- lines and locations ---------------------------------------------------------------------------------------------


def _telling_line(
    failures: Sequence[Failure],
    output: ReadOutput,
    at: WorkingDirectories,
    of_loom: Sequence[str],
) -> str | None:
    """Choose the line as `Diagnosis.telling_line`; the first of `of_loom`, if any, rather than one that names no error."""
    message = next((each.message for each in failures if each.message), None)
    last = (line.text for line in reversed(output.lines) if not line.blank)
    reason = output.reason
    if not (message or output.complete) and any(line.tells and not line.mild for line in output.last):
        reason = output.last  # of more errors than are kept, the last
    found = telling_line(reason, at, message)
    if of_loom and not any(line.tells for line in output.reason if line.text == found):
        return of_loom[0]
    return found or next(last, None)


def _locations(
    lines: Sequence[ReadLine],
    telling: str,
    step: Mapping[str, Any],
    tests: Sequence[FailingTest],
    failures: Sequence[Failure],
    ended: Ending | None,
    at: WorkingDirectories,
    *,
    silent: bool,
) -> list[Location]:
    """Return locations, the surest first: of a silent command that ended the step before mere mentions, else if none is named."""
    at_command = [ended.line, *ended.candidates] if ended and ended.file else []
    by_command = [Location(file=ended.file, line=line) for line in at_command if line and ended and ended.file]
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
    surest = by_command if silent else []
    found = at.resolved((*told, *locations_in_step(texts(lines), step), *of_tests, *surest, *mentions))
    return found or by_command[:MOST_LOCATIONS]
