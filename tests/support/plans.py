"""What holds for every plan; plans and problems as text."""

import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import fields, replace

from loom.errors import Problem
from loom.plan.model import Job, LateJob, Plan


def as_declared(plan: Plan) -> Plan:
    """Return the plan. Each of its values has the type that its field declares, and is the same once written and read."""
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan
    return plan


def lines(plan: Plan, hidden: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield everything that a plan says, but for defaults: of each job, what it says otherwise than the job before it.

    Jobs stand together that are left out for one reason, or say nothing new. A step is told once, whatever its line.
    `hidden`: how the names of parts begin that are not told.
    """
    left: dict[str, list[str]] = {}
    for out in plan.left_out:
        left.setdefault(encoded(replace(out, id="")), []).append(out.id)
    yield from (f"left out: {', '.join(ids)}: {why}" for why, ids in left.items())
    before: dict[str, str] = {}
    told: set[str] = set()
    said: list[tuple[list[str], list[str]]] = []
    for job in plan.jobs:
        now = {name: one for name, one in parts(job) if not name.startswith(hidden)}
        new = [f"  {name}: {one}" for name, one in now.items() if before.get(name) != one]
        gone = [name for name in before if name not in now]
        steps = {encoded(replace(step, line=0)): step for step in job.steps}
        new += [f"  not: {', '.join(names)}" for names in [gone] if names]
        new += [f"  step {step.number}: {encoded(step)}" for text, step in steps.items() if text not in told]
        before, told = now, told | steps.keys()
        if new or not said:
            said.append(([], new))
        said[-1][0].append(job.id)
    for ids, own in said:
        yield from (f"{', '.join(ids)}:", *own)


def parts(job: Job) -> Iterator[tuple[str, str]]:
    """Yield the name of each part of a job that is no default, and what it says, but for the job's own name."""
    names = {job.id, job.id.rpartition(".")[2], job.id.replace(".", " / ")}
    values = given(job)
    late = values.pop("late", None)
    steps = values.pop("steps")
    refused = values.pop("refused", ())  # the warnings tell why
    for name, value in (*values.items(), ("steps", len(steps)), ("refused", len(refused)), *late_parts(late)):
        if value not in (0, *names):
            yield name, encoded(value)


def late_parts(late: LateJob | None) -> Iterator[tuple[str, object]]:
    """Yield the parts of a job that GitHub decides late, each value of the context `github` by itself, but for the matrix."""
    for name, value in given(late).items() if late is not None else ():
        if name == "contexts":
            yield from ((f"github.{one}", value["github"][one]) for one in value.get("github", {}))
            shown = {one: said for one, said in value.items() if one not in ("github", "matrix")}
            if "strategy" in shown:
                shown["strategy"] = {**shown["strategy"], "job-index": "its place", "job-total": "all"}
            yield from ((f"late context {one}", said) for one, said in shown.items())
        else:
            yield f"late {name}", replace(value, contexts={}) if name == "caller" else value


def given(value: Struct) -> dict[str, Any]:
    defaults = defaults_of(type(value))
    found = {name: getattr(value, name) for name in defaults}
    return {name: one for name, one in found.items() if one != defaults[name]}


@cache
def defaults_of(kind: type[Struct]) -> dict[str, Any]:
    made = {one.name: one.default_factory() for one in fields(kind) if callable(one.default_factory)}
    return {one.name: made.get(one.name, one.default) for one in fields(kind)}


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
