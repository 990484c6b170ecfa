"""`loom reproduce --try`: the facts as they were on the server, each of which changes the job for one run more."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from loom.errors import RequestError
from loom.plan.model import Image, Job
from loom.util import units

_SIZE = re.compile(r"(?P<cpus>\d+) CPUs?, (?P<memory>\d+) GB")
_VARIABLE = re.compile(r"[A-Za-z_]\w*")
_HINT = "--try known, cpus=2, memory=8GB, image=NAME@sha256:…, or NAME=VALUE of a variable, such as TZ or LANG"


class Fact(Struct, frozen=True):
    """A fact as it was there. `change`: returns the job with it."""

    text: str
    change: Callable[[Job], Job]


def facts_of(asked: Sequence[str], size: str) -> list[Fact]:
    """Read `--try`; `known` stands for the `size` of the machine there. RequestError for another text."""
    found = _SIZE.search(size)
    known = [f"cpus={found['cpus']}", f"memory={found['memory']}GB"] if found is not None else []
    if "known" in asked and not known:
        raise RequestError(
            "--try known: neither the server nor its log tells the size of the machine there", hint=_HINT
        )
    texts = dict.fromkeys(each for text in asked for each in (known if text == "known" else [text]))
    return list(map(_fact, texts))


def _fact(text: str) -> Fact:
    name, equals, value = text.partition("=")
    if not equals or not _VARIABLE.fullmatch(name):
        raise RequestError(f"--try {text}: not understood", hint=_HINT)
    try:
        if name == "cpus":
            cpus = float(value)
            return Fact(text, lambda job: replace(job, resources=replace(job.resources, cpus=cpus)))
        if name == "memory":
            memory = units.size(value)
            return Fact(text, lambda job: replace(job, resources=replace(job.resources, memory=memory)))
        if name == "image":
            return Fact(text, lambda job: replace(job, image=replace(job.image or Image(), name=value, build=None)))
    except ValueError as error:
        raise RequestError(f"--try {text}: {error}", hint=_HINT) from error
    return Fact(text, lambda job: replace(job, variables={**job.variables, name: value}))


def cost(facts: Sequence[Fact], duration_ms: float | None) -> str:
    """Return the line about the cost of the trials."""
    runs = units.counted(len(facts), "run")
    return (
        f"tries {', '.join(fact.text for fact in facts)}: {runs} more, each about {units.rough_duration(duration_ms)}"
    )
