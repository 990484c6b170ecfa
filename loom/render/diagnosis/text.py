"""A diagnosis for a person: what failed, what ended it, the lines that matter and what they mean, the next command."""

from __future__ import annotations

from collections.abc import Iterator

from loom.analysis.diagnosis import ChangedSince, Diagnosis, Excerpt, LogSource
from loom.analysis.history import ChangedFile, SameInput, SinceGreen
from loom.analysis.patterns import FailureGroup
from loom.render.look import Look
from loom.render.records import run_age
from loom.util.controls import visible
from loom.util.units import counted


def lines(diagnosis: Diagnosis, look: Look, *, now_ns: int) -> Iterator[str]:
    if diagnosis.state == "refused":
        yield from refused_lines(diagnosis, look, now_ns=now_ns)
        return
    yield look.styled(headline(diagnosis), "bad") if diagnosis.failed else look.styled(_nothing(diagnosis), "ok")
    tree = f", tree {diagnosis.tree_sha[:12]}" if diagnosis.tree_sha else ""
    on = ", still runs" if diagnosis.state == "running" else ""
    if diagnosis.log is not None:
        yield look.styled(log_text(diagnosis.log), "dim")
    else:
        yield look.styled(f"run {diagnosis.run_id}, {run_age(diagnosis.run_id, now_ns)}{tree}{on}", "dim")
    if not diagnosis.failed:
        return
    if diagnosis.changed_since is not None:
        yield look.styled(changed_since_text(diagnosis.changed_since), "warn")
    if diagnosis.command and diagnosis.step:
        for number, line in enumerate(diagnosis.command.strip().splitlines()[:8]):
            yield f"  {'$' if number == 0 else ' '} {line}"
    if diagnosis.error and (not diagnosis.step or diagnosis.job_status == "error"):
        for line in diagnosis.error.splitlines():
            yield f"  {line}"
    for line in ended_lines(diagnosis):
        yield f"  {line}"
    if diagnosis.lines:
        yield ""
        bar = look.styled(look.marks["bar"], "dim")
        read = {reading.line: reading for reading in diagnosis.readings}
        for line in diagnosis.lines:
            yield f"  {bar} {look.marks['dots'] if line == '…' else line}"
            if (reading := read.pop(line.strip()[:200], None)) is not None:
                yield f"    {look.styled('means:', 'bold')} {reading.text}"
                yield f"           {reading.advice}"
        if diagnosis.lines_total and diagnosis.lines_total > len(diagnosis.lines):
            yield look.styled(f"    of {diagnosis.lines_total:,} lines{read_text(diagnosis)}", "dim")
    yield from _tests(diagnosis, look)
    yield from _groups(diagnosis, look)
    yield from unread_lines(diagnosis)
    if diagnosis.earlier_error:
        yield look.styled(earlier_text(diagnosis.earlier_error), "dim")
    yield from _history(diagnosis, look, now_ns=now_ns)
    yield ""
    if diagnosis.excerpt is not None:
        yield from (f"  {line}" for line in excerpt_lines(diagnosis.excerpt))
        yield ""
    if at := look_at(diagnosis):
        yield f"look at: {visible(at)}"
    yield from failed_jobs(diagnosis)
    if diagnosis.reproduce:
        yield f"again:   {diagnosis.reproduce}"
    if diagnosis.logs_command:
        yield f"more:    {diagnosis.logs_command}"
    if diagnosis.events_path:
        yield f"events:  {diagnosis.events_path}"


_SERVERS = {"gitlab": "GitLab's log", "github": "GitHub's log", "plain": "log"}


def log_text(log: LogSource) -> str:
    """Return one line: which log it is, and the commit that it names."""
    runner = f", runner {log.runner}" if log.runner else ""
    commit = f", commit {log.commit[:12]}" if log.commit else ""
    ref = f" of {log.ref}" if log.ref else ""
    name = "standard input" if log.name == "-" else log.name
    return visible(f"{_SERVERS[log.format]} {name}{runner}{commit}{ref}")


def failed_jobs(diagnosis: Diagnosis, most: int = 20) -> list[str]:
    """Return the names of the failed jobs with what each is told of, and those that failed in the same way at the same place
    once; empty for one job."""
    if not diagnosis.others or diagnosis.job_id is None:
        return []
    same: dict[tuple[object, ...], list[str]] = {}
    texts: dict[tuple[object, ...], str] = {}
    for each in (diagnosis.own_failure, *diagnosis.others):
        at = f"{each.location.file}:{each.location.line}" if each.location else ""
        line = (each.telling_line or "").strip()
        texts.setdefault(each.failure, ": " * bool(line) + line[:160] + (f" ({at})" if at not in line else ""))
        same.setdefault(each.failure, []).append(each.job_id)
    lines = [f"{len(diagnosis.others) + 1} jobs failed:"]
    for failure, jobs in list(same.items())[:most]:
        more = f" and {len(jobs) - 8} more" if len(jobs) > 8 else ""
        lines.append(f"  {visible(', '.join(jobs[:8]) + more + texts[failure])}")
    if left := sum(map(len, list(same.values())[most:])):
        lines.append(f"  and {counted(left, 'more job')}")
    return lines


def look_at(diagnosis: Diagnosis, most: int = 5) -> str:
    """Return the locations, and the job that they are of where several failed; empty without one."""
    at = ", ".join(each.text for each in diagnosis.locations[:most])
    return f"{at} (job {diagnosis.job_id})" if at and diagnosis.others else at


def ended_lines(diagnosis: Diagnosis) -> Iterator[str]:
    """Yield what ended the step, without what the script and the error say already, and the facts beside it."""
    if (ended := diagnosis.ended_by) is not None:
        if ended.command is not None and (ended.signal or not ended.is_all_of(diagnosis.command)):
            yield f"ended by: {visible(ended.text)}"
        if (
            ended.says
            and ended.says not in (diagnosis.error or "")
            and not any(ended.says in x for x in diagnosis.lines)
        ):
            yield (
                f"the {ended.by} says: {visible(ended.says)}"
                if ended.by != "loom"
                else f"ended by: {visible(ended.says)}"
            )
        if ended.advice and ended.advice not in (diagnosis.error or ""):
            yield f"          {visible(ended.advice)}"
    yield from (f"beside it: {visible(fact)}" for fact in diagnosis.beside)


def unread_lines(diagnosis: Diagnosis) -> list[str]:
    return [f"report not read: {visible(problem)}" for problem in diagnosis.unread_reports[:3]]


def earlier_text(line: str) -> str:
    return f"before that: {visible(line.strip()[:200])} (the script went on)"


def changed_since_text(changed_since: ChangedSince) -> str:
    """Return one line, so that nobody looks for a mistake in lines that have changed."""
    what = [f"HEAD is {changed_since.head_sha[:12]}"] if changed_since.head_sha is not None else []
    if changed_since.files_total:
        more = changed_since.files_total - len(changed_since.files)
        files = ", ".join(map(visible, changed_since.files)) + (f" and {more} more" if more else "")
        what.append(f"{files} changed")
    return f"the checkout has changed since this run: {'; '.join(what)}"


def excerpt_lines(excerpt: Excerpt) -> list[str]:
    """Number the lines of the source, and mark the one that the output names."""
    texts = excerpt.text.split("\n")
    width = len(str(excerpt.first_line + len(texts)))
    numbered = enumerate(texts, excerpt.first_line)
    lines = [f"{'>' if number == excerpt.line else ' '} {number:>{width}} | {text}" for number, text in numbered]
    return [f"{visible(excerpt.file)}:{excerpt.line}", *(visible(line).rstrip() for line in lines)]


def refused_lines(diagnosis: Diagnosis, look: Look, *, now_ns: int) -> Iterator[str]:
    """Explain a run that left no record, so that no other run is taken for it."""
    yield look.styled(headline(diagnosis), "bad")
    yield look.styled(f"{run_age(diagnosis.run_id, now_ns)}; it left no record", "dim")
    for line in (diagnosis.error or "").splitlines():
        yield f"  {visible(line)}"
    if diagnosis.previous_run_id is not None:
        yield f"the run before it: loom diagnose {diagnosis.previous_run_id}"


def _nothing(diagnosis: Diagnosis) -> str:
    if diagnosis.state == "running" and diagnosis.job_status is None:
        return f"run {diagnosis.run_id} still runs: nothing to diagnose"
    if diagnosis.state == "detached" and diagnosis.job_status is None:
        return f"run {diagnosis.run_id} is detached, and its jobs go on: `loom attach {diagnosis.run_id}` follows them"
    if diagnosis.job_status == "skipped":
        return f"job {diagnosis.job_id} was skipped: {diagnosis.error}"
    if diagnosis.log is not None and diagnosis.job_id is None:
        return "the job passed, as its log says: nothing to diagnose"
    what = f"run {diagnosis.run_id}" if diagnosis.job_id is None else f"job {diagnosis.job_id}"
    return f"{what} passed: nothing to diagnose"


def headline(diagnosis: Diagnosis) -> str:
    """Return one line: how the job or the run ended, and where."""
    if diagnosis.state == "refused":
        return f"refused: {visible(diagnosis.reproduce or 'loom run')}, exit code {diagnosis.exit_code}"
    if diagnosis.state == "interrupted" and diagnosis.job_status is None:
        begin = f"interrupted, last event at {diagnosis.last_event_at}"
    else:
        begin = {"error": "could not run", "timed_out": "timed out", "canceled": "interrupted"}.get(
            diagnosis.job_status or diagnosis.state, "failed"
        )
    if diagnosis.job_id is None and diagnosis.log is None:
        return f"run {diagnosis.run_id} {begin}"
    unit = (
        f", step {diagnosis.step}" if diagnosis.step else f", section {diagnosis.section}" if diagnosis.section else ""
    )
    unit += f" {diagnosis.step_name!r}" if diagnosis.step and diagnosis.step_name else ""
    unit += f" ({diagnosis.step_location})" if diagnosis.step and diagnosis.step_location else ""
    told = diagnosis.step or diagnosis.log is not None
    code = f", exit code {diagnosis.exit_code}" if diagnosis.exit_code is not None and told else ""
    job = f": job {diagnosis.job_id}" if diagnosis.job_id is not None else ""
    return visible(f"{begin}{job}{unit}{code}")


def _tests(diagnosis: Diagnosis, look: Look) -> Iterator[str]:
    if not diagnosis.failing_tests:
        return
    yield ""
    yield look.styled(f"failing tests: {diagnosis.failing_tests_total}", "bold")
    for test in diagnosis.failing_tests[:10]:
        yield f"  {look.styled(look.marks['bad'], 'bad')} {test.full_name}{test.position}"
        if test.reason:
            yield f"    {visible(test.reason)}"
    if diagnosis.failing_tests_total > 10:
        yield f"  {look.marks['dots']} and {diagnosis.failing_tests_total - 10} more"


def read_text(diagnosis: Diagnosis) -> str:
    """Report lines that tell and were not read; empty if all were."""
    partly = diagnosis.output_read == "part"
    return "; some earlier lines that tell were not read" if partly else ""


def groups_text(diagnosis: Diagnosis) -> str:
    """Return `40 failures of 3 kinds`; empty where the kinds add nothing to what is shown."""
    total = max(diagnosis.failures_total, diagnosis.failing_tests_total)
    if not diagnosis.groups or (diagnosis.failing_tests and diagnosis.groups_total >= total):
        return ""
    least = "at least " if diagnosis.output_read == "part" else ""
    return f"{least}{counted(total, 'failure')} of {counted(diagnosis.groups_total, 'kind')}"


def group_text(group: FailureGroup) -> str:
    """Return the message with its count, and the first test and location that show it."""
    first = group.first
    where = f"{first.file}:{first.line}" if first.file and first.line else first.file
    names = ", ".join(name for name in (first.test, where) if name and name != group.message)
    message = " ".join(group.message.split())
    return f"{f'{group.count} × ' if group.count > 1 else ''}{message}{f' ({names})' if names else ''}"


def _groups(diagnosis: Diagnosis, look: Look) -> Iterator[str]:
    if not (title := groups_text(diagnosis)):
        return
    yield ""
    yield look.styled(title, "bold")
    for group in diagnosis.groups[:5]:
        yield f"  {look.styled(look.marks['bad'], 'bad')} {visible(group_text(group))}"
    if diagnosis.groups_total > 5:
        yield f"  {look.marks['dots']} and {diagnosis.groups_total - 5} more"


def _history(diagnosis: Diagnosis, look: Look, *, now_ns: int) -> Iterator[str]:
    if diagnosis.same_input is not None:
        yield ""
        yield look.styled(same_input(diagnosis.same_input), "bold")
    if (since := diagnosis.since_green) is None or not (changed := ", ".join(changes(since))):
        return
    tree = f" on tree {since.tree_sha[:12]}" if since.tree_sha else ""
    passed = look.styled("passed", "bold")
    yield ""
    yield f"{passed} {run_age(since.run_id, now_ns)}{tree} (run {since.run_id}); since then: {changed}"
    bar = look.styled(look.marks["bar"], "dim")
    files = since.files or []
    for file in files:
        if file.hunk and (file.named or len(files) == 1):
            yield look.styled(f"  {visible(file.path)}", "dim")
            yield from (f"  {bar} {visible(line)}" for line in file.hunk)


def same_input(same: SameInput) -> str:
    return f"flaky: the same tree passed {same.passed} of {same.runs} times"


def changes(since: SinceGreen, most: int = 8) -> list[str]:
    """List the changes: files that the output names first, then images, variables and the rest."""
    names = [_changed(file) for file in since.files or ()]
    if since.files is None:
        names = ["the tree (its files are not known any more)"]
    if (more := since.files_total - most) > 0:
        names = [*names[:most], f"{more} more files"]
    pairs = [f"{visible(pair.name)}: {_side(pair.a)} / {_side(pair.b)}" for pair in since.other]
    return [*names, *pairs[:most]]


def _changed(file: ChangedFile) -> str:
    line = f":{file.line}" if file.line else ""
    how = "" if file.change == "modified" else f" ({file.change})"
    return f"{visible(file.path)}{line}{how}"


def _side(value: str | None) -> str:
    return "none" if value is None else visible(value)[:60]
