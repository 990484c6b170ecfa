"""Write a run as one HTML page: `page` returns the text of a file that requires no network and no other file."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markdown_it import MarkdownIt

from loom.analysis.diagnosis import Diagnosis
from loom.analysis.evidence import diagnosis_of
from loom.analysis.html_report.logs import Log, ReadBudget, key_of, numbered, read_log
from loom.analysis.html_report.overview import Bar, Scale, bars, columns_of, scale, ticks
from loom.analysis.printed import commit_of
from loom.record.documents import Receipt
from loom.record.extent import extent_text
from loom.record.fold import JobState, RunFold, Span
from loom.record.reader import Reading, Unit
from loom.record.sections import SectionReader, reader_for
from loom.record.store import GOES_ON
from loom.status import failing_tests_total
from loom.util.controls import cleaned
from loom.util.units import counted, rough_duration, rough_size
from loom.values import Immutable

if TYPE_CHECKING:
    from jinja2 import Template

MOST_FAILURES = 100
"""Failed jobs with a diagnosis of their own; the others are listed too."""
WORDS = {
    "success": "passed",
    "failure": "failed",
    "error": "could not run",
    "timed_out": "timed out",
    "canceled": "canceled",
    "skipped": "skipped",
    "unfinished": "did not end",
    "running": "running",
    "detached": "detached",
    "interrupted": "interrupted",
}
_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
"""For a stranger's text: its HTML is text, and it loads nothing."""
_COUNT_ORDER = ("failure", "error", "timed_out", "canceled", "unfinished", "success", "skipped")


class LogView(Immutable):
    """A step or a section with its log. `anchor` is its part of the page's address."""

    anchor: str
    name: str
    span: Span
    open: bool
    line: int | None
    """The line that tells why the job failed."""
    excerpt: list[tuple[str, int | None]]
    """The lines that the diagnosis shows, with their numbers."""
    log: Log
    events_uri: str
    logs_command: str

    @property
    def command(self) -> str:
        return str(self.span.start.data.get("command", "")).strip()


class JobView(Immutable):
    id: str
    state: JobState
    status: str
    duration: str
    note: str
    facts: list[tuple[str, str]]
    bars: list[Bar]
    attempts: list[tuple[int, str, list[LogView]]]
    """Number, status and logs of each."""
    telling: str
    summaries: list[tuple[str, str]]
    """The texts that its steps wrote to `$GITHUB_STEP_SUMMARY`, by the steps' names, as markup."""
    open: bool

    @property
    def blamed(self) -> LogView | None:
        """The log that shows why the job failed."""
        return next((log for *_, logs in self.attempts for log in logs if log.open), None)

    @property
    def anchor(self) -> str:
        """The anchor in the page of what shows why."""
        log = self.blamed
        return self.id if log is None else log.anchor if log.line is None else f"{log.anchor}/L{log.line}"


def page(reading: Reading) -> str:
    """Return the HTML text. RecordError for a record that can't be read."""
    from markupsafe import Markup

    own = {"style": Path(__file__).with_name("page.css"), "script": Path(__file__).with_name("page.js")}
    texts = {name: path.read_text() for name, path in own.items()}
    digests = {name: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for name, text in texts.items()}
    return template("page.html.j2").render(
        **values(reading),
        **{name: Markup(text) for name, text in texts.items()},
        **{f"{name}_hash": f"'sha256-{digest}'" for name, digest in digests.items()},  # the policy allows them alone
    )


@cache
def template(name: str) -> Template:
    """Return a template that escapes every value and removes control sequences from it."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("loom.analysis", "html_report"),
        autoescape=True,
        finalize=lambda value: cleaned(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = rough_duration
    return environment.get_template(name)


def values(reading: Reading) -> dict[str, Any]:
    """Return the content of the page."""
    fold = reading.fold
    receipt = reading.receipt()
    failed = fold.failed_jobs()
    diagnoses = {job.id: diagnosis_of(reading, job.id) for job in failed[:MOST_FAILURES]}
    first = diagnoses[failed[0].id] if failed else diagnosis_of(reading)
    if first.job_id is not None:
        diagnoses.setdefault(first.job_id, first)
    whole = scale(fold.spans)
    share = ReadBudget()
    order = sorted(fold.jobs.values(), key=lambda job: job.id not in diagnoses)  # their logs are the ones to have whole
    views = {
        job.id: _job(reading, job, diagnoses.get(job.id), share, whole, first=job.id == first.job_id) for job in order
    }
    jobs = [views[job_id] for job_id in fold.jobs]
    shown = views.get(first.job_id or "")
    failures = [views[job.id] for job in failed]
    same: dict[object, list[JobView]] = {}  # those that failed in the same way at the same place
    for each in failures:
        found = diagnoses.get(each.id)
        same.setdefault(found.own_failure.failure if found else each.anchor, []).append(each)
    return {
        "title": f"{headline(fold, reading.state)}: {receipt.workflow_path or 'loom run'} {reading.run_id}",
        "words": words_for(reading.state),
        "headline": headline(fold, reading.state),
        "counts": counts(fold, words_for(reading.state)),
        "error": receipt.error,
        "facts": _facts(reading, receipt),
        "images": receipt.images,
        "diagnosis": first,
        "excerpt": shown.blamed.excerpt if shown and shown.blamed else [(line, None) for line in first.lines],
        "failures": failures,
        "same_failures": list(same.values()),
        "failed_earlier": fold.failed_earlier,
        "telling": first.telling_line,
        "anchor": shown.anchor if shown else None,
        "log_anchor": shown.blamed.anchor if shown and shown.blamed else None,
        "jobs": jobs,
        "columns": columns_of(fold.fact("plan_resolved").get("stages", ()), fold.jobs.values()),
        "ticks": ticks(whole),
        "left_out": fold.fact("plan_resolved").get("left_out", []),
    }


def headline(fold: RunFold, state: str) -> str:
    """Return the run's result in one sentence."""
    total, failed = len(fold.jobs), len(fold.failed_jobs())
    passed = sum(job.status == "success" for job in fold.jobs.values())
    if state in ("interrupted", "canceled"):
        return f"The run was {state}"
    if state in GOES_ON:
        return f"{failed} of {counted(total, 'job')} failed so far" if failed else "The run goes on"
    if failed:
        return "The job failed" if total == 1 else f"{failed} of {total} jobs failed"
    if fold.failed_earlier:
        return f"{counted(len(fold.failed_earlier), 'job')} failed in an earlier run and did not run again"
    if state != "success" or not total:
        return "The run failed" if state != "success" else "No job ran"
    if passed == total:
        return "The job passed" if total == 1 else f"All {total} jobs passed"
    return f"{passed} of {counted(total, 'job')} passed"


def words_for(state: str) -> Mapping[str, str]:
    return {**WORDS, "unfinished": WORDS["running"]} if state in GOES_ON else WORDS


def counts(fold: RunFold, words: Mapping[str, str] = WORDS) -> str:
    """Count the jobs by status: `3 failed, 1 could not run, 10 passed`; allowed failures have a count of their own."""
    found: Counter[tuple[int, str]] = Counter()
    for job in fold.jobs.values():
        status = str(job.status or "unfinished")
        word = words[status] + (" (allowed)" if job.allowed_failure and not (job.status and job.status.ok) else "")
        found[_COUNT_ORDER.index(status), word] += 1
    return ", ".join(f"{number} {word}" for (_, word), number in sorted(found.items()))


def _facts(reading: Reading, receipt: Receipt) -> list[tuple[str, str]]:
    snapshot, sha = receipt.snapshot or {}, receipt.snapshot_head_sha or ""
    commit = commit_of(reading) if sha else None
    facts = [
        ("run", reading.run_id),
        ("started", _utc_time(receipt.started_at)),
        ("took", rough_duration(receipt.duration_ms) if receipt.duration_ms is not None else ""),
        ("repository", receipt.repo_root or ""),
        ("workflow", receipt.workflow_path or ""),
        ("commit", sha[:12] + (f" {commit.subject} ({commit.author}, {_utc_time(commit.time)})" if commit else "")),
        ("extent", extent_text(receipt.extent)),
        ("tree", (receipt.snapshot_tree_sha or "")[:12]),
        ("uncommitted changes", str(snapshot.get("changed", 0))),
        ("record", str(reading.paths.root)),
        ("loom", receipt.loom_version),
    ]
    return [(name, value) for name, value in facts if value]


def _utc_time(ts: str) -> str:
    return f"{datetime.fromisoformat(ts):%Y-%m-%d %H:%M:%S} UTC"


def _job(
    reading: Reading, job: JobState, diagnosis: Diagnosis | None, share: ReadBudget, whole: Scale, *, first: bool
) -> JobView:
    note = (job.error or "") if job.end is not None else words_for(reading.state)["unfinished"]
    by_attempt: dict[int, list[LogView]] = {}
    readers: dict[int, SectionReader] = defaultdict(SectionReader)
    for unit in reading.units(job.id):
        # A step ends its groups of commands.
        of_attempt = reader_for(job.planned) if job.planned.get("commands") else readers[unit.attempt]
        sections = of_attempt if unit.step is not None else SectionReader()
        by_attempt.setdefault(unit.attempt, []).append(_log(reading, unit, job, diagnosis, share, sections))
    return JobView(
        id=job.id,
        state=job,
        status=str(job.status or "unfinished"),
        duration="" if job.end is None or job.status == "skipped" else rough_duration(job.end.duration_ms),
        note=note,
        facts=list(_job_facts(job)),
        bars=list(bars(job, whole)),
        attempts=[(number, _attempt_status(job, number), logs) for number, logs in sorted(by_attempt.items())],
        telling=(diagnosis and diagnosis.telling_line) or next(iter(note.splitlines()), ""),
        summaries=[
            (fact.get("name") or fact["step"], str(_MARKDOWN.render(cleaned(fact["summary"]))))
            for fact in job.listed("step_state")
            if fact.get("summary") and fact.get("attempt", 1) == max(1, job.attempts)
        ],
        open=first,
    )


def _attempt_status(job: JobState, number: int) -> str:
    if number == job.attempts:
        return str(job.status or "unfinished")
    ends = [span.status for (attempt, _), span in job.steps.items() if attempt == number]
    return str(next((status for status in ends if status is not None and not status.ok), "failure"))


def _job_facts(job: JobState) -> Iterator[tuple[str, str]]:
    image = job.facts.get("image_resolved") or {}
    artifacts = [found] if (found := job.facts.get("artifacts_saved")) else job.listed("artifact")
    files, size = (sum(one[name] for one in artifacts) for name in ("files", "bytes"))
    tests = job.listed("failing_test")
    failing_tests = failing_tests_total(tests, job.facts.get("test_reports"))
    facts = [
        ("image", str(image.get("name") or "")),
        ("digest", str(image.get("digest") or "")),
        ("needs", ", ".join(job.planned.get("needs") or ())),
        ("services", ", ".join(job.planned.get("services") or ())),
        ("matrix", ", ".join(f"{name}={value}" for name, value in (job.planned.get("matrix") or {}).items())),
        ("artifacts", f"{counted(files, 'file')}, {rough_size(size)}" if artifacts else ""),
        ("failing tests", f"{failing_tests}, the first {len(tests)} below" if failing_tests > len(tests) else ""),
    ]
    return ((name, value) for name, value in facts if value)


def _log(
    reading: Reading, unit: Unit, job: JobState, diagnosis: Diagnosis | None, share: ReadBudget, sections: SectionReader
) -> LogView:
    span = job.steps[unit.attempt, unit.name] if unit.step is not None else job.sections[unit.name]
    last = unit.step is None or unit.attempt == job.attempts
    blamed = diagnosis is not None and last and unit.name == (diagnosis.step or diagnosis.section)
    telling = diagnosis.telling_line if diagnosis is not None and blamed else None
    lines = diagnosis.lines if diagnosis is not None and blamed else []
    output = span.data.get("output")
    total = None if output is None else int(output.get("stdout_lines", 0) + output.get("stderr_lines", 0))
    log = read_log(
        unit.events, share, began=span.start.ts, total=total, sections=sections, wanted=[*lines, telling or ""]
    )
    excerpt = list(zip(lines, numbered(lines, log), strict=True))
    known = key_of(telling or "")
    in_excerpt = (number for line, number in excerpt if number is not None and key_of(line) == known)
    return LogView(
        anchor=f"{unit.job_id}/{unit.name}" + ("" if last else f"/attempt-{unit.attempt}"),
        name=unit.name,
        span=span,
        open=blamed,
        line=next(in_excerpt, log.numbers.get(known, [log.total])[-1]) or None if blamed else None,
        excerpt=excerpt,
        log=log,
        events_uri=unit.events.absolute().as_uri(),
        logs_command=shlex.join(["loom", "logs", reading.run_id, unit.job_id, unit.name]),
    )
