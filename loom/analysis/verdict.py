"""Compare a job that failed elsewhere with a run of it here: the same failure, another one, or none, and where they part."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from loom.analysis.diagnosis import Diagnosis
from loom.analysis.diff import Pair
from loom.analysis.failure import JobEnding, compare, first_line, normalised, same
from loom.analysis.named_files import makers, missing_paths
from loom.plan.model import Job, Plan
from loom.record.documents import Document
from loom.status import Count

_REORDERED = 40
"""Lines that one side may be ahead of the other: two streams arrive in any order."""
_LINE = 300


class LogParting(Document):
    """The first line that only one side has; `line` counts from 1 in the output of the command."""

    command: str
    line: Count
    there: str | None
    here: str | None


Verdict = Literal["reproduced", "another-failure", "passes-here", "not-run"]


class Reason(Document):
    """A fact that differs between the two sides, and that the failing command names."""

    kind: Literal["artifact", "variable"]
    text: str


class Trial(Document):
    """A run with one fact more as it was there."""

    fact: str
    run_id: str
    verdict: Verdict
    text: str
    decides: bool
    """Whether the job ends as there with this fact, and without it in another way: a reason that is proved."""


class Reproduction(Document):
    """The document of `loom reproduce --json`."""

    schema_version: Literal["loom.reproduction.v1"] = "loom.reproduction.v1"
    kind: Literal["reproduction"] = "reproduction"
    origin: str
    job_id: str
    run_id: str
    """The run here."""
    verdict: Verdict
    """`not-run`: loom could not run the job, which says nothing about it."""
    text: str
    reasons: list[Reason] = []
    """Empty if both sides fail alike."""
    there: JobEnding
    here: JobEnding
    parting: LogParting | None
    trials: list[Trial] = []
    differs: list[Pair]
    """The known differences: `a` there, `b` here."""
    notes: list[str]
    """Facts and files that the server does not give (`unknown: …`), and their substitutes here."""


class Block(Struct, frozen=True):
    """A command and its output, in order. `lines` can be read once, before the next block is asked for."""

    command: str
    lines: Iterable[str]


def verdict(there: JobEnding, here: JobEnding, parting: LogParting | None) -> tuple[Verdict, str]:
    """Return the verdict, and one line that says it."""
    if here.status == "success":
        at = f"the logs part at line {parting.line} of `{parting.command}`" if parting else "the logs do not differ"
        return "passes-here", f"passes here{', as there' if there.status == 'success' else ''}; {at}"
    if here.status in ("error", "canceled", "skipped") and here.status != there.status:
        return "not-run", f"the job did not run to its end here: {here.text}"
    if there.status == "success":
        return "another-failure", f"passed there, fails here: {here.text}"
    compared = compare(there, here)
    if compared.same:
        return "reproduced", f"reproduced: {compared.text}"
    return "another-failure", f"another failure: {compared.text}"


def parting_of(there: Iterable[Block], here: Iterable[Block]) -> LogParting | None:
    """Return the first line, command by command, in which the two differ but for times, ids and temporary paths."""
    for one, other in zip_longest(there, here):
        command = (one or other).command
        if one is None or other is None or not same(first_line(one.command), first_line(other.command)):
            texts = [None if each is None else first_line(each.command) for each in (one, other)]
            return LogParting(command=first_line(command) or "", line=0, there=texts[0], here=texts[1])
        if (found := _first_other(one.lines, other.lines)) is not None:
            return replace(found, command=first_line(command) or "")
    return None


def _first_other(there: Iterable[str], here: Iterable[str]) -> LogParting | None:
    """Compare with a window, in constant memory: a line may come a few lines later on the other side."""
    waiting: tuple[deque[tuple[int, str, str]], deque[tuple[int, str, str]]] = (deque(), deque())
    both = zip_longest(filter(str.strip, there), filter(str.strip, here))
    for number, lines in enumerate(both, 1):
        for side, line in enumerate(lines):
            if line is None:
                continue
            form, other = normalised(line), waiting[1 - side]
            match = next((each for each in other if each[1] == form), None)
            if match is not None:
                other.remove(match)
            else:
                waiting[side].append((number, form, line))
        if any(queue and number - queue[0][0] > _REORDERED for queue in waiting):
            break
    first = [queue[0] if queue else None for queue in waiting]
    if first == [None, None]:
        return None
    number = min(each[0] for each in first if each is not None)
    texts = [each[2][:_LINE] if each is not None and each[0] - number <= _REORDERED else None for each in first]
    return LogParting(command="", line=number, there=texts[0], here=texts[1])


OF_TAG = "image of the tag "
"""The name of a difference: this machine's image of a tag is not the one that ran there, which then ran here, too."""
_OF_JOB = "artifacts of "
_FILE = re.compile(r"[\w.-]*[./][\w./-]+")


def reasons(
    kind: Verdict, sides: Sequence[Diagnosis | None], differs: Sequence[Pair], job: Job, plan: Callable[[], Plan | None]
) -> list[Reason]:
    """Return the differences that a failing command is shown to depend on, since it or its output names them.

    `sides`: the job's diagnoses there and here; `plan`: returns the plan of the whole workflow, if there is one. If both
    sides fail alike, what differs did not matter, and the list is empty.
    """
    failed = [side for side in sides if side is not None and side.failed]
    if kind not in ("passes-here", "another-failure"):
        return []
    found: dict[str, Reason] = {}
    said = "\n".join(text for side in failed for text in (side.command or "", side.telling_line or "", *side.lines))
    for pair in differs:
        what, _, name = pair.name.partition(" ")
        if what == "variable" and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", said):
            found[pair.name] = Reason(kind="variable", text=f"{name} is not as there, and the failing command names it")
    lacking = {pair.name.removeprefix(_OF_JOB) for pair in differs if pair.name.startswith(_OF_JOB)}
    if lacking and (whole := plan()) is not None:
        ids = {each.id for each in whole.jobs if each.name in lacking}
        named = [path for side in failed for path in missing_paths(side.lines, side.command)]
        named += [path.removeprefix("./") for path in _FILE.findall(said)]
        for path, (maker, _) in makers(whole, job, named).items():
            if maker in ids:
                text = f"{path} is an artifact of {maker}, which is not as there, and the failing command names it"
                found.setdefault(f"artifacts {maker}", Reason(kind="artifact", text=text))
    return list(found.values())


def lines_of(found: Reproduction) -> Sequence[str]:
    """Return the verdict for a person."""
    lines = [found.text]
    if (parting := found.parting) is not None:
        lines.append(f"the logs part at line {parting.line} of `{parting.command}`:")
        lines += [
            f"  {side}: {'nothing' if text is None else text}"
            for side, text in (("there", parting.there), ("here ", parting.here))
        ]
    elif found.verdict != "passes-here":
        lines.append("the logs do not part")
    lines += [f"reason: {reason.text}" for reason in found.reasons]
    lines += [
        f"tried {one.fact}: {'this decides: ' if one.decides else ''}{one.text} (run {one.run_id})"
        for one in found.trials
    ]
    if found.differs:
        lines.append("what differs:")
        lines += [f"  {pair.name}: {pair.a or 'none'} there, {pair.b or 'none'} here" for pair in found.differs]
    return [*lines, *(note if note.startswith("unknown: ") else f"note: {note}" for note in found.notes)]
