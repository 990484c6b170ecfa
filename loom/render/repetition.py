"""Render how often a job failed as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from loom.render.screen import Look
from loom.util.controls import visible

if TYPE_CHECKING:
    from loom.analysis.repetition import Rate, Repetition

_MOST = 10


def repetition_lines(found: Repetition, look: Look) -> Iterator[str]:
    failed, of = found.rate.count, found.rate.of
    yield look.styled(f"failed: {rate_text(found.rate)}", "bad" if failed else "ok")
    if found.ended_otherwise or of < found.wanted:
        yield f"without a result: {found.wanted - of} of {found.wanted}"
    if not failed:
        return
    codes = ", ".join(f"{code} ({count} times)" for code, count in found.exit_codes.items())
    yield f"exit codes: {codes}"
    if found.tests:
        yield "failing tests:"
        for test in found.tests[:_MOST]:
            yield f"  {visible(test.name)}  {rate_text(test.rate)}"
        if len(found.tests) > _MOST:
            yield f"  {look.marks['dots']} {len(found.tests) - _MOST} more"
    if (parting := found.parting) is not None:
        where = f"job {parting.job_id}, step {parting.step}, line {parting.line} of run {parting.run_id}"
        yield f"no passing run prints ({parting.runs} of the {failed} that failed do): {where}"
        yield f"  {visible(parting.text)}"
    elif found.passed:
        yield "the runs that failed print nothing that none of the others prints"
    for pair in found.differs:
        yield f"{pair.name}: {pair.a} where it passed, {pair.b} where it failed"
    yield f"see one that failed: loom diagnose {found.failed[0]}"
    if found.passed:
        yield f"compare: loom diff {found.passed[0]} {found.failed[0]}"


def rate_text(rate: Rate) -> str:
    """Format a rate: `6 of 20, 30 % (95 %: 15 % to 52 %)`."""
    share, low, high = (100 * part for part in (rate.count / max(1, rate.of), rate.low, rate.high))
    return f"{rate.count} of {rate.of}, {share:.0f} % (95 %: {low:.0f} % to {high:.0f} %)"
