"""Name the facts that differ between two runs of a job, and that the failing command or its output names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from loom.analysis.diagnosis import Diagnosis
from loom.analysis.diff import Pair
from loom.analysis.named_files import makers, missing_paths
from loom.analysis.verdict import Reason, Verdict
from loom.plan.model import Job, Plan

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
