"""What holds for every plan; plans and problems as text."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import fields, replace

from loom.errors import Problem
from loom.plan.model import Plan


def as_declared(plan: Plan) -> Plan:
    """Return the plan. Each of its values has the type that its field declares, and is the same once written and read."""
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan
    return plan


def lines(plan: Plan) -> Iterator[str]:
    """Yield everything that a plan says, but for defaults; what all its jobs say of the event, once."""
    yield from (f"left out: {encoded(one)}" for one in plan.left_out)
    known: set[str] = set()
    for job in plan.jobs:
        yield f"{job.id}:"
        values = given(job)
        steps, late = values.pop("steps"), values.pop("late", None)
        yield from (f"  {name}: {encoded(one)}" for name, one in values.items())
        yield from (f"  step: {encoded(one)}" for one in steps)
        if late is not None:
            github = {name: one for name, one in late.contexts["github"].items() if name not in known}
            known |= github.keys() - {"job"}
            own = replace(late, contexts={**late.contexts, "github": github})
            if own.caller is not None:
                own = replace(own, caller=replace(own.caller, contexts={**own.caller.contexts, "github": {}}))
            yield from (f"  late {name}: {encoded(one)}" for name, one in given(own).items())


def given(value: Struct) -> dict[str, Any]:
    found = {one.name: getattr(value, one.name) for one in fields(value)}
    made = {one.name: one.default_factory() for one in fields(value) if callable(one.default_factory)}
    defaults = {one.name: made.get(one.name, one.default) for one in fields(value)}
    return {name: one for name, one in found.items() if one != defaults[name]}


def encoded(value: object) -> str:
    return msgspec.json.encode(plain(value), order="sorted").decode()


def plain(value: object) -> object:
    if isinstance(value, Struct):
        return {name: plain(one) for name, one in given(value).items()}
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, tuple | list) else value


def expect(beside: Path, said: str) -> None:
    """Compare a text with a kept file. `LOOM_TEST_ACCEPT=1` replaces it: read it before you commit it."""
    if os.environ.get("LOOM_TEST_ACCEPT"):
        beside.write_text(said)
    assert said == beside.read_text()


def problem_line(problem: Problem) -> str:
    """Return all that a problem says: what an editor underlines is at the end."""
    start = problem.column - 1
    text = (problem.source_line or "")[start : start + min(problem.length, 60)]
    severity = "" if problem.severity == "error" else f"{problem.severity}: "
    return f"{severity}{problem} <{problem.length} {text}>"
