"""Tell what changed since the job passed, and how often it passed on the same input."""

from __future__ import annotations

from collections.abc import Iterator

from loom.analysis.diagnosis import Diagnosis
from loom.analysis.history import ChangedFile, SameInput, SinceGreen
from loom.render.records import run_age
from loom.render.screen import Look
from loom.util.controls import visible


def lines(diagnosis: Diagnosis, look: Look, *, now_ns: int) -> Iterator[str]:
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


def agent_lines(diagnosis: Diagnosis, *, now_ns: int) -> Iterator[str]:
    if diagnosis.same_input is not None:
        yield same_input(diagnosis.same_input)
    if (since := diagnosis.since_green) is not None and (changed := ", ".join(changes(since, most=4))):
        yield f"changed since it passed {run_age(since.run_id, now_ns)}: {changed}"[:400]
        hunk = next((file.hunk for file in since.files or () if file.hunk and file.named), [])
        yield from (f"  {visible(line)[:120]}" for line in hunk)


def same_input(same: SameInput) -> str:
    return f"flaky: the same tree passed {same.passed} of {same.runs} times"


def changes(since: SinceGreen, most: int = 8) -> list[str]:
    """Name what changed: the files that the output names first, then images, variables and the rest."""
    names = [_changed(file) for file in since.files or ()]
    if since.files is None:
        names = ["the tree (its files are not known any more)"]
    if (more := since.files_total - most) > 0:
        names = [*names[:most], f"{more} more files"]
    pairs = [f"{visible(pair.name)}: {_side(pair.a)} / {_side(pair.b)}" for pair in since.other]
    return [*names, *pairs[:most]]


def _changed(file: ChangedFile) -> str:
    place = f":{file.line}" if file.line else ""
    how = "" if file.change == "modified" else f" ({file.change})"
    return f"{visible(file.path)}{place}{how}"


def _side(value: str | None) -> str:
    return "none" if value is None else visible(value)[:60]
