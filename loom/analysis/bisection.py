"""Find the next commit to run, and the one since which a job fails, from git's own order and the results so far."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from loom.analysis.diagnosis import Diagnosis
from loom.analysis.failure import JobEnding
from loom.record.documents import Commit, Document, RunId, Sha
from loom.values import Immutable

Verdict = Literal["good", "bad", "skip"]


class Tested(Document):
    commit: Sha
    verdict: Verdict
    run_id: RunId | None
    reason: str | None
    failure: JobEnding | None = None
    """Of the bad commit that was named: the failure that is looked for."""


class Bisection(Document):
    """The document of `loom bisect --json`."""

    schema_version: Literal["loom.bisection.v1"] = "loom.bisection.v1"
    kind: Literal["bisection"] = "bisection"
    jobs: list[str]
    good: Sha
    bad: Sha
    first_bad: Commit | None
    """None where only skipped commits are left."""
    candidates: list[Sha]
    """The commits of which it is one: several where the others were skipped."""
    tested: list[Tested]
    diagnosis: Diagnosis | None


class RemainingCommits(Immutable):
    """The rest of the range."""

    next: list[str]
    """The commits to run now; none at the end."""
    candidates: list[str]
    """The first bad commit is one of these; the last one is known to be bad."""


Order = Callable[[str, Sequence[str]], Sequence[str]]
"""Return the commits that the bad one has and the good ones do not, those first that halve them best (git's `--bisect-all`)."""


def left_of(order: Order, good: str, bad: str, results: Mapping[str, Verdict], at_once: int) -> RemainingCommits:
    """Return, from the results in git's order, the first commits without one, at most so many."""
    ranges, wanted = deque[tuple[str, tuple[str, ...]]]([(bad, (good,))]), list[str]()
    left: list[str] | None = None
    while ranges and len(wanted) < at_once:
        worst, sound = ranges.popleft()
        commits = order(worst, sound)
        found = _chosen([each for each in commits if each != worst], results)
        if found is None or results.get(found) is None:
            left = left if left is not None else [*(each for each in commits if each != worst), worst]
        if found is None or found in wanted:
            continue
        narrower = {"bad": (found, sound), "good": (worst, (*sound, found))}
        if (verdict := results.get(found)) is not None:
            ranges.appendleft(narrower[verdict])
            continue
        wanted.append(found)
        ranges.extend(narrower.values())
    return RemainingCommits(next=wanted, candidates=left or [bad])


def _chosen(commits: Sequence[str], results: Mapping[str, Verdict]) -> str | None:
    """Choose the first commit; if it was skipped, one that lies away from it, as git does: what was skipped lies together.

    The numbers are those of git's `skip_away`: the same for the same number of commits, mostly near the middle.
    """
    there = [each for each in commits if results.get(each) != "skip"]
    if not there or there[0] == commits[0]:
        return there[0] if there else None
    drawn = (len(there) * 1103515245 + 12345) // 65536 % 32768
    index = int(len(there) * drawn / 32768 * math.sqrt(drawn / 32768))
    return there[index]
