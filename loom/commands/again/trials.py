"""`loom reproduce --try`: the facts as they were on the server, each of which changes the plan for one run more."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from loom.errors import RequestError
from loom.plan.clone import Clone
from loom.plan.model import Image, Job, Plan
from loom.util import units

_SIZE = re.compile(r"(?P<cpus>\d+) CPUs?, (?P<memory>\d+) GB")
_VARIABLE = re.compile(r"[A-Za-z_]\w*")
_HINT = (
    "--try known, cpus=2, memory=8GB, network=none, user=1000, depth=20, image=NAME@sha256:…, order=JOB,JOB, unset=NAME, "
    "or NAME=VALUE of a variable, such as TZ or LANG"
)


class Fact(Struct, frozen=True):
    """A fact as it was there. `change`: returns the fields of the job that it changes, or raises ValueError."""

    text: str
    change: Callable[[Job], dict[str, Any]]
    order: tuple[str, ...] = ()
    """The ids of the jobs whose artifacts the job gets in this order."""

    def applied(self, plan: Plan, job_id: str) -> Plan:
        """Return the plan with the fact. RequestError where it can't be had."""
        job = plan.job(job_id)
        try:
            places = sorted(plan.jobs.index(plan.job(name)) for name in self.order)
            jobs = {plan.jobs[place].id: plan.job(name) for place, name in zip(places, self.order, strict=True)}
            jobs[job_id] = replace(job, **self.change(job))
        except KeyError as error:
            raise RequestError(
                f"--try {self.text}: no job {error}", hint="loom compile --explain lists them"
            ) from error
        except ValueError as error:
            raise RequestError(f"--try {self.text}: {error}", hint=_HINT) from error
        return replace(plan, jobs=tuple(jobs.get(each.id, each) for each in plan.jobs))


def facts_of(asked: Sequence[str], size: str, depth: str = "") -> list[Fact]:
    """Read `--try`; `known` stands for the `size` of the machine there. RequestError for another text.

    `depth`: of the clone there, if its log tells it; the clone here has it already."""
    found = _SIZE.search(size)
    known = [f"cpus={found['cpus']}", f"memory={found['memory']}GB"] if found is not None else []
    if "known" in asked and not known:
        raise RequestError(
            "--try known: neither the server nor its log tells the size of the machine there", hint=_HINT
        )
    if depth and (told := next((text for text in asked if text.startswith("depth=")), None)):
        raise RequestError(f"--try {told}: its log tells the depth, {depth}, and the clone here has it", hint=_HINT)
    return list(map(_fact, dict.fromkeys(each for text in asked for each in (known if text == "known" else [text]))))


def _fact(text: str) -> Fact:
    name, equals, value = text.partition("=")
    if not equals or not _VARIABLE.fullmatch(name):
        raise RequestError(f"--try {text}: not understood", hint=_HINT)
    if name == "order":
        return Fact(text, lambda _: {}, tuple(value.split(",")))
    try:
        return Fact(text, _change(name, value))
    except ValueError as error:
        raise RequestError(f"--try {text}: {error}", hint=_HINT) from error


def _change(name: str, value: str) -> Callable[[Job], dict[str, Any]]:
    match name:
        case "cpus":
            cpus = units.processors(value)
            seen = int(cpus) if cpus.is_integer() else None
            return lambda job: {"resources": replace(job.resources, cpus=cpus, processors=seen)}
        case "memory":
            memory = units.size(value)
            return lambda job: {"resources": replace(job.resources, memory=memory)}
        case "network":
            if value not in ("none", "bridge"):
                raise ValueError("expected none or bridge")
            return lambda job: {"network": replace(job.network, mode=value)}
        case "user":
            return lambda job: _image(job, user=value)
        case "depth":
            if (depth := units.whole_number(value)) < 0:
                raise ValueError("expected a number of commits, or 0 for all")
            return lambda job: {"clone": replace(job.clone or Clone(), depth=depth)}
        case "image":
            return lambda job: _image(job, name=value, build=None)
        case "unset":
            return lambda job: _variable(job, value, {})
        case _:
            return lambda job: _variable(job, name, {name: value})


def _image(job: Job, **changed: Any) -> dict[str, Any]:
    image = replace(job.image or Image(), **changed)
    return {"image": image, "referring": job.referring and replace(job.referring, image=image)}


def _variable(job: Job, name: str, value: Mapping[str, str]) -> dict[str, Any]:
    """Return the job's fields with this value of a variable, which no earlier job replaces; an empty `value` removes it.

    ValueError for a variable to remove that the job does not have.
    """

    def others(variables: Mapping[str, str]) -> dict[str, str]:
        return {each: text for each, text in variables.items() if each != name}

    def with_it(variables: Mapping[str, str]) -> dict[str, str]:
        return {**others(variables), **value} if name in variables else dict(variables)

    late = job.late
    given = (job.variables, *((late.env, late.container_env) if late else ()), *(step.env for step in job.steps))
    secrets = tuple(each for each in job.secrets if each.name != name)
    if not value and len(secrets) == len(job.secrets) and not any(name in each for each in given):
        raise ValueError(f"neither its workflow nor the server gives {job.id} a variable of this name")
    return {
        "variables": {**others(job.variables), **value},
        "file_variables": tuple(each for each in job.file_variables if each != name),
        "given_variables": (*job.given_variables, name),
        "referring": job.referring and replace(job.referring, variables=others(job.referring.variables)),
        "late": late and replace(late, env=with_it(late.env), container_env=with_it(late.container_env)),
        "steps": tuple(replace(step, env=with_it(step.env)) for step in job.steps),
        "secrets": secrets,
    }


def cost(facts: Sequence[Fact], duration_ms: float | None) -> str:
    """Return the line about the cost of the trials."""
    runs = units.counted(len(facts), "run")
    return (
        f"tries {', '.join(fact.text for fact in facts)}: {runs} more, each about {units.rough_duration(duration_ms)}"
    )
