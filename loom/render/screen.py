"""A sink that renders a run's events as lines for a person, live or replayed.

`Screen` keeps only the last lines of running steps. Replaying a record's events prints the same lines as the run (`loom show`);
`closing_lines` follow when the record is complete.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import Struct

from loom.record.events import OutputEvent, PhaseCode, PhaseEvent
from loom.record.fold import JobState, RunFold
from loom.record.journal import OutputBatch
from loom.record.lines import TAIL_LINES
from loom.record.sections import OutputSection, SectionReader, reader_for
from loom.render.look import Detail, Look
from loom.status import NOT_BEGUN, Status, Stream
from loom.util import typed
from loom.util.controls import cleaned, shown, visible
from loom.util.units import counted, rough_duration, rough_size

if TYPE_CHECKING:
    from loom.analysis.diagnosis import Diagnosis

Text = TypeVar("Text", str, bytes)
LONGEST_LINE = 2000
"""Number of characters of such a line to show: lines have any length, and terminals are slow."""

_VERDICTS = {
    Status.SUCCESS: ("ok", "ok", "passed"),
    Status.FAILURE: ("bad", "bad", "failed"),
    Status.ERROR: ("bad", "bad", "could not run"),
    Status.TIMED_OUT: ("bad", "bad", "timed out"),
    Status.CANCELED: ("warn", "warn", "interrupted"),
    Status.SKIPPED: ("skip", "dim", "skipped"),
}


def _lines_of(pieces: Collection[OutputEvent], dots: str, reader: SectionReader) -> Iterator[str]:
    """Return the last lines of an output as `reader` shows them; the middle of very long ones is cut."""
    lines: list[list[str]] = []
    unfinished: Stream | None = None
    for piece in pieces:
        if piece.stream != unfinished:
            lines.append([])
        lines[-1].append(piece.text)
        unfinished = piece.stream if piece.partial else None
    for number, parts in enumerate(lines):
        for text in map(visible, reader.seen("".join(parts))):
            if len(text) <= LONGEST_LINE:
                yield text
                continue
            half = LONGEST_LINE // 2
            # The first kept part may have unknown predecessors.
            at_least = "at least " if number == 0 and len(pieces) >= TAIL_LINES else ""
            left_out = f"{at_least}{len(text) - 2 * half:,} characters left out, which are in the events file"
            yield f"{text[:half]}{dots} ({left_out}) {dots}{text[-half:]}"


def command_lines(event: PhaseEvent) -> list[str]:
    """Return the lines of the command of a step that begins, one at least."""
    return str(event.data.get("command", "")).strip().splitlines() or [""]


def while_heard(write: Callable[[Text], object]) -> Callable[[Text], None]:
    """Call `write` until its first failure (the terminal or the pipe's reader is gone). Run and record continue."""
    gone = False

    def heard(text: Text) -> None:
        nonlocal gone
        if gone:
            return
        try:
            write(text)
        except (OSError, ValueError):
            gone = True

    return heard


class Sections(Struct):
    """Folds the sections that every output marks. A collapsed one is shown at its end, as one line with its size and duration."""

    marks: Mapping[str, str]
    reader_of: Callable[[str], SectionReader]
    """Return a new reader for the output of a job."""
    _readers: dict[tuple[str, str], SectionReader] = {}

    def lines(self, key: tuple[str, str], text: str) -> Iterator[str]:
        """Yield the lines to show for one line of an output."""
        reader = self._readers.get(key)
        if reader is None:
            reader = self._readers[key] = self.reader_of(key[0])
        for part in reader.parts(text):
            if any(section.collapsed for section in reader.open):
                continue
            if isinstance(part, str):
                yield part
            elif part.ended is None:
                yield f"{self.marks['open']} {part.title}"
            elif part.duration_ms is not None:
                yield self._end(part, rough_duration(part.duration_ms))

    def end(self, key: tuple[str, str]) -> Iterator[str]:
        """Yield a line for the collapsed section that is still open at the end of an output, if there is one."""
        if (reader := self._readers.pop(key, None)) is not None:
            for section in [section for section in reader.open if section.collapsed][:1]:
                yield self._end(section, "without an end")

    def _end(self, section: OutputSection, took: str) -> str:
        mark = self.marks["start" if section.collapsed else "close"]
        size = f"{counted(section.lines, 'line')}, " if section.collapsed else ""
        return f"{mark} {section.title} ({size}{took})"


class Screen:
    """Render events and pass each line to `write` (without line end). An OSError of `write` ends the output."""

    def __init__(self, look: Look, write: Callable[[str], None]) -> None:
        self._look = look

        def write_cleaned(line: str) -> None:
            write(cleaned(line, colours=look.paint is not None))

        self._write = while_heard(write_cleaned)
        self.fold = RunFold()
        self._tails: dict[tuple[str, str], deque[OutputEvent]] = {}
        self._sections = Sections(look.marks, self._reader_of)
        self._job_width = 8
        self._summaries = 0

    def phase(self, event: PhaseEvent) -> None:
        if self._look.detail is not Detail.QUIET:
            self.fold.apply(event)
            for line in self._lines(event):
                self._write(line)

    def output(self, batch: OutputBatch) -> None:
        if self._look.detail is Detail.QUIET:
            return
        job_id, unit = batch.where.job_id or "", batch.where.step or batch.where.section or ""
        tail = self._tails.get((job_id, unit))
        if tail is None:
            tail = self._tails[job_id, unit] = deque(maxlen=TAIL_LINES)
        tail.extend(batch.events[-TAIL_LINES:])
        whole, sections = self._look.detail is Detail.VERBOSE, (job_id, batch.where.section or "")
        for event in batch.events if self._look.stream else ():
            for line in (event.text,) if whole else self._sections.lines(sections, event.text):
                self._write(self._prefix(job_id) + visible(line, colours=self._look.paint is not None))

    def seen(self, job_id: str, text: str) -> list[str]:
        """Return the lines that people see of one line of a job's output."""
        return [visible(line) for line in self._reader_of(job_id).seen(text)]

    def _job(self, job_id: str | None) -> JobState:
        return self.fold.jobs.get(job_id or "") or JobState(job_id or "", {})

    def _reader_of(self, job_id: str) -> SectionReader:
        return reader_for(self._job(job_id).planned)

    def _prefix(self, job_id: str) -> str:
        return self._look.styled(f"{job_id:<{self._job_width}} {self._look.marks['bar']} ", "job")

    def close(self) -> None:
        """Release nothing; a live screen overrides it."""

    def _lines(self, event: PhaseEvent) -> Iterator[str]:
        if event.kind == "message":
            yield from self._fact(event)
        elif event.kind == "phase_started":
            yield from self._started(event)
        elif event.phase_code == PhaseCode.RUN_BOOTSTRAP and event.error:
            yield "\n".join(self._look.styled(line, "bad") for line in event.error.splitlines())

    def _started(self, event: PhaseEvent) -> Iterator[str]:
        if event.job_id is None:
            return
        self._tails.pop((event.job_id, event.step or event.section or ""), None)  # from an earlier attempt
        if event.step is not None and self._look.stream:
            first = command_lines(event)
            more = f" {self._look.marks['dots']}" if len(first) > 1 else ""
            name = f"{shown(event.data['name'])}: " if event.data.get("name") else ""
            for line in self._sections.lines((event.job_id, ""), f"{name}$ {shown(first[0])}{more}"):
                yield self._look.styled(f"{event.job_id:<{self._job_width}} {line}", "dim")

    def _fact(self, event: PhaseEvent) -> Iterator[str]:
        data = event.data
        if event.message in ("attempt_failed", "job_finished"):
            for line in self._sections.end((event.job_id or "", "")):
                yield self._prefix(event.job_id or "") + line
        match event.message:
            case "plan_resolved":
                self._job_width = min(40, max([8, *(len(job["id"]) for job in data["jobs"])]))
            case "engine_answered" if self._look.detail is Detail.VERBOSE:
                yield self._look.styled(f"  engine {data['engine']}", "dim")
            case "files_copied" if not self._look.calm:
                yield self._look.styled(f"  copying: {data['files']:,} of {data['of']:,} files", "dim")
            case "snapshot_taken":
                yield from self._snapshot(data)
            case "notice":
                text = shown(data["text"]).replace("\n", "\n    ")
                yield self._look.styled(f"{self._look.marks['warn']} {text}", "warn")
            case "image_resolved" if self._look.detail is Detail.VERBOSE:
                exact = data.get("digest") or data["id"]
                yield self._row("start", "dim", event.job_id or "", f"image {data['name'] or ''} is {exact}")
            case "session_opened":
                image = self._job(event.job_id).planned.get("image")
                facts = [f"{key}={value}" for key, value in data.items() if value not in ("", None)]
                more = f" ({', '.join(facts)})" if facts and self._look.detail is Detail.VERBOSE else ""
                if not self._look.calm:
                    text = self._titled(event.job_id, f"started {f'in {image}' if image else 'on the host'}{more}")
                    yield self._row("start", "dim", event.job_id or "", text)
            case "interrupted":
                again = "a second ^C ends them" if data["by"] == "interrupted" else "a second signal ends them"
                soon = f"interrupted: steps have {data['grace_s']:g} s, then after_script; {again} at once"
                at_once = "interrupted again: everything is ended at once"
                yield self._look.styled(at_once if data["at_once"] else soon, "warn")
            case "step_state":
                self._summaries += bool(data.get("summary"))
            case "warning":
                yield self._row("warn", "warn", event.job_id or "", shown(data["text"]))
            case "attempt_failed":
                yield self._row("warn", "warn", event.job_id or "", f"attempt {data['attempt']} failed, trying again")
            case "job_finished":
                yield from self._job_finished(event)
            case "run_finished":
                yield from self._run_finished(event)
            case _:
                pass

    def _titled(self, job_id: str | None, text: str) -> str:
        """Return the text behind the job's name on GitHub's pages, where the id does not say it."""
        title = str(self._job(job_id).planned.get("title", ""))
        known = not title or f".{job_id}".endswith(f".{title}")
        return text if known else f"{shown(title)}: {text}"

    def _snapshot(self, data: Mapping[str, Any]) -> Iterator[str]:
        if not self._look.calm:
            yield f"isolated workspace: {data['path']}"
        if self._look.detail is Detail.VERBOSE:
            dirty = f" + {counted(data['changed'], 'uncommitted change')}" if data["changed"] else ""
            yield self._look.styled(
                f"  HEAD {str(data['head_sha'])[:12]}{dirty}, tree {str(data['tree_sha'])[:12]}, "
                f"{counted(data['files'], 'file')}, {rough_size(data['bytes'])}",
                "dim",
            )
        for left in data["left_out"][:5]:
            yield self._look.styled(
                f"  left out: {shown(left['path'].replace(chr(10), chr(0)))} ({left['reason']})", "warn"
            )
        if len(data["left_out"]) > 5:
            yield self._look.styled(f"  left out: {len(data['left_out']) - 5} more, named in the receipt", "warn")

    def _row(self, mark: str, style: str, job_id: str, text: str) -> str:
        look, text = self._look, text.replace("\n", "\n    ")
        return f"{look.styled(look.marks[mark], style)} {job_id:<{self._job_width}}  {look.styled(text, style)}"

    def _job_finished(self, event: PhaseEvent) -> Iterator[str]:
        job_id, data = event.job_id or "", event.data
        mark, style, verdict = _VERDICTS[event.status or Status.ERROR]
        if event.error == NOT_BEGUN:  # as all jobs, which the run's own error says
            return
        if event.status is Status.SKIPPED:
            yield self._row(mark, style, job_id, f"skipped: {event.error}")
            return
        text = self._titled(job_id, f"{verdict} in {rough_duration(event.duration_ms)}")
        if data.get("allowed_failure"):
            mark, style, text = "warn", "warn", f"{text} (allowed to fail)"
        yield self._row(mark, style, job_id, text)
        if event.status is not Status.SUCCESS:
            yield from self._failure(event)
        for key in [key for key in self._tails if key[0] == job_id]:
            del self._tails[key]

    def _failure(self, event: PhaseEvent) -> Iterator[str]:
        """Show the failing job's step, command, exit code, last lines, and where to find the rest."""
        from loom.analysis.ending import by_shell, locations_in_step  # only a failed job needs it

        job_id, job = event.job_id or "", self._job(event.job_id)
        by = None
        step, section = event.data.get("failing_step"), event.data.get("failing_section")
        unit = str(step or section or "")
        data = job.failing_step[1].data if job.failing_step else {}
        if step is not None:
            code = "" if event.exit_code is None else f", exit code {event.exit_code}"
            at = f" ({shown(data['file'])}:{data['line']})" if data.get("file") else ""
            name = f" ({shown(data['name'])})" if at and data.get("name") else ""
            yield f"    step {step}{name}{code}{at}"
            command = str(data.get("command", ""))
            lines = command.strip().splitlines()
            for number, line in enumerate(lines[:6]):
                yield f"    {'$' if number == 0 else ' '} {shown(line)}"
            if len(lines) > 6:
                yield f"      {self._look.marks['dots']} {len(lines) - 6} more lines"
            by = by_shell(data.get("ended_by"), data)
            by = None if by is None or by.is_all_of(command) else by
            if by is not None:
                yield f"    {shown(by.text)}"
        # The previous line has these facts.
        if event.error and (step is None or event.error != f"{step} failed with exit code {event.exit_code}"):
            for line in event.error.splitlines():
                yield f"    {self._look.styled(line, 'bad')}"
        bar = self._look.styled(self._look.marks["bar"], "dim")
        tail = self._tails.get((job_id, unit), ())
        for text in _lines_of(tail, self._look.marks["dots"], self._reader_of(job_id)):
            yield f"    {bar} {text}"
        if step is not None and by is None:
            locations = [
                at for at in locations_in_step([piece.text for piece in tail], data) if at.line != data["line"]
            ]
            if named := ", ".join(shown(f"{at.file}:{at.line}") for at in locations[:3]):
                yield f"    that is {named}"
        if unit:
            folder = f"user/{step}" if step else f"system/{section}"
            yield f"    events: {self.fold.started.get('logs_dir', '')}/jobs/{job_id}/{folder}/events.jsonl"
        if opened := job.facts.get("session_opened"):
            laid_out = opened.get("mount_mode") in ("bind_mount", "none")
            yield f"    files: {opened.get('workspace') if laid_out else f'loom workspace {event.run_id} {job_id}'}"

    def _run_finished(self, event: PhaseEvent) -> Iterator[str]:
        status = Status(event.data["status"])
        _, style, verdict = _VERDICTS[status]
        why = "" if status.ok or status is Status.CANCELED else f" (why: loom diagnose {event.run_id})"
        if self._summaries:
            yield f"{counted(self._summaries, 'step summary', 'step summaries')}: loom report {event.run_id}"
        ended = [f"{verdict} in {rough_duration(event.data['duration_ms'])}"]
        if (stated := event.data.get("extent")) is None or stated["proof"]:
            yield self._look.styled(f"{ended[0]}{why}", style)
            return
        from loom.record import documents, extent

        meant = typed.convert(stated, documents.Extent)
        ended += extent.held_text(meant)
        yield self._look.styled(f"{'; '.join(ended)}{why}", style)
        if meant.kinds != ["partial"] or meant.not_selected or meant.reused or len(ended) == 1:
            no_proof = "no proof that the workflow passes: " if status.ok else ""
            yield self._look.styled(f"{self._look.marks['warn']} {no_proof}{shown(extent.extent_text(meant))}", "warn")


def closing_lines(
    status: str, receipt_path: Path, diagnosis: Diagnosis | None, kept: Mapping[str, Mapping[str, Any]], look: Look
) -> Iterator[str]:
    """`diagnosis`: of a run that did not succeed; `kept`: by job, the facts of a container to look inside."""
    if look.detail is not Detail.QUIET:
        yield from diagnosis_lines(diagnosis, look)
    yield f"receipt: {receipt_path}"
    if look.detail is Detail.QUIET:
        yield f"status: {status}"
        return
    run_id = receipt_path.stem.rpartition("-")[2]
    for job_id, fact in kept.items():
        long = ""
        if fact.get("container_id"):
            until = datetime.fromisoformat(fact["expires_at"]).astimezone()
            long = f" (kept until {until:%Y-%m-%d %H:%M}, {rough_size(fact.get('bytes') or 0)})"
        yield f"look inside: loom shell {run_id} {job_id}{long}"
    if any(fact.get("paused") for fact in kept.values()):
        yield f"paused: after a repair there or in the checkout, go on with: loom resume {run_id} [--sync]"


def diagnosis_lines(diagnosis: Diagnosis | None, look: Look) -> Iterator[str]:
    """Yield the parts of the diagnosis of a failed run that the failing job's lines do not show."""
    if diagnosis is None or diagnosis.state == "canceled":
        return
    telling = diagnosis.telling_line
    hidden = (
        telling in diagnosis.lines and "…" in diagnosis.lines[diagnosis.lines.index(telling) :]
    )  # not among the last
    if hidden or diagnosis.readings:
        yield f"{look.styled('line:', 'bold')}    {telling}"
    for reading in diagnosis.readings:
        yield f"{look.styled('means:', 'bold')}   {reading.text}"
        yield f"         {reading.advice}"
    from loom.render.diagnosis.text import (
        earlier_text,
        failed_jobs,
        look_at,
        unread_lines,
    )  # only a failed run needs it

    if at := look_at(diagnosis, 3):
        yield f"look at: {shown(at)}"
    if diagnosis.earlier_error:
        yield earlier_text(diagnosis.earlier_error)
    yield from unread_lines(diagnosis)
    yield from failed_jobs(diagnosis)
    yield f"again:   {diagnosis.reproduce}"
