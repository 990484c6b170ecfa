"""The budget of reading and planning: whatever a stranger's files expand to, they end in an error with a line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

from msgspec import Struct

from loom.errors import WorkflowError

Node = Any
"""A node of `yaml_file`, which imports this module."""
What = Literal["values", "jobs", "steps", "mistakes"]


class Budget(Struct, kw_only=True):
    """The most of each that all files of a workflow have together, and the processor's time for it."""

    values: int = 400_000
    jobs: int = 20_000
    steps: int = 50_000
    mistakes: int = 5_000
    seconds: float = 30.0
    ends: float = 0.0
    until_look: int = 0
    """How much is spent before the next look at the clock."""


LOOKING_S = 5.0
"""The processor's time for commands that only look at files."""
COMPLETION_S = 1.4
"""The processor's time for completion, which a shell waits for at each TAB."""
_BETWEEN_LOOKS = 64
_present: ContextVar[Budget | None] = ContextVar("budget", default=None)


@contextmanager
def limited(seconds: float | None = None) -> Iterator[None]:
    """Give what happens in the block a budget; inside of another block, that one's counts."""
    if _present.get(None) is not None:
        yield
        return
    budget = Budget()
    budget.seconds = seconds or budget.seconds
    budget.ends = time.thread_time() + budget.seconds
    token = _present.set(budget)
    try:
        yield
    finally:
        _present.reset(token)


def spend(what: What, node: Node, number: int = 1) -> None:
    """Take from the budget, if there is one. WorkflowError at `node` when it is used up."""
    budget = _present.get(None)
    if budget is None:
        return
    left = getattr(budget, what) - number
    setattr(budget, what, left)
    budget.until_look -= 1
    if left < 0:
        raise _used_up(f"the workflow has more than {getattr(Budget(), what):,} {what}", node)
    if budget.until_look < 0:
        budget.until_look = _BETWEEN_LOOKS if what == "values" else 0
        if time.thread_time() > budget.ends:
            raise _used_up(f"reading the workflow takes more than {budget.seconds:g} s of the processor", node)


def _used_up(why: str, node: Node) -> WorkflowError:
    return WorkflowError(
        [node.file.problem(node, f"{why}: no more of it is read", code="WF_TOO_LARGE")],
        hint="make it smaller: fewer jobs, combinations of a matrix, or files that use each other",
    )
