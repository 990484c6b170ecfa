"""The possible jobs of a plan, in any language: what rules decide for each, and what it needs."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import TypeVar

from msgspec import Struct

from loom.plan import model as p
from loom.util.toposort import CycleError, order
from loom.util.yaml_file import Node, one_or_more, text_of
from loom.workflow.loaded import Entry
from loom.workflow.needs import WantedNeed
from loom.workflow.rules import RuleDecision

DEPLOYMENTS = "deployments without --deploy"
"""The kind of the jobs that deploy."""


class Withheld(Struct, frozen=True):
    """The reason to leave a job out, unless it is named, though its rules let it run."""

    reason: str
    kind: str
    """What such jobs are or want, in a word or two."""
    even_if_named: bool = False


DEPLOYS = Withheld("it deploys; --deploy or its name runs it", DEPLOYMENTS)


class Candidate(Struct, kw_only=True):
    """One possible job of any dialect: a job of the workflow, or one combination of its matrix."""

    id: str
    name: str
    stage: str
    entry: Entry
    matrix: Mapping[str, str]
    decision: RuleDecision
    wanted: tuple[WantedNeed, ...] | None
    """None: waits for all earlier stages."""
    leaves_artifacts: bool = False
    artifacts: tuple[str, ...] = ()
    """The paths of its artifacts, as the workflow has them."""
    base_when: str | None
    """The job's own `when`."""
    title: str = ""
    """One more name that people may use for it."""
    needs: list[p.Need] | None = None
    held: Withheld | None = None
    unknown_values: tuple[str, ...] = ()
    """Of one that its rules leave out: see `NotSelected.unknown`."""

    becomes_several: bool = False
    """While it runs: `ID.VALUES` means it too."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.id, self.name, self.title or self.id)))


C = TypeVar("C", bound=Candidate)


def index_by_name(candidates: Iterable[C]) -> dict[str, list[C]]:
    """Return the candidates that each name in `needs` means: a job's name, or the title of one instance."""
    found: dict[str, list[C]] = {}
    for candidate in candidates:
        for name in dict.fromkeys((candidate.name, candidate.title or candidate.name)):
            found.setdefault(name, []).append(candidate)
    return found


_UNKNOWN = ("CI_DEFAULT_BRANCH",)
"""Variables that every pipeline of CI has, and a checkout may not tell."""


def undecided(
    candidates: Iterable[Candidate], of_workflow: Node | None, known: Container[str]
) -> dict[str, tuple[str, ...]]:
    """Return the variables without a value (`known` are those with one) that rules of these candidates ask for."""
    named = {one.id: _conditions(one.entry.merged.get("rules"), one.decision.rule) for one in candidates}
    shared = _conditions(of_workflow, None)
    unknown = [name for name in _UNKNOWN if name not in known]
    found = {
        name: tuple(i for i, text in named.items() if re.search(rf"\b{name}\b", shared + text)) for name in unknown
    }
    return {name: jobs for name, jobs in found.items() if jobs}


def _conditions(rules: Node | None, matched: int | None) -> str:
    """Return the conditions up to the rule that matched (None: all)."""
    asked = one_or_more(rules)[: None if matched is None else matched + 1]
    return "\n".join(text_of(rule, "if") for rule in asked)


def sort_by_plan(
    stages: Iterable[str], stage_of: Mapping[str, str], needs: Mapping[str, Iterable[str]]
) -> Iterator[str]:
    """Yield the jobs by stage, then after their needs, then in the order of the file."""
    by_stage: dict[str, list[str]] = {stage: [] for stage in stages}
    for name, stage in stage_of.items():
        by_stage[stage].append(name)
    for names in by_stage.values():
        try:
            yield from order(names, needs)
        except CycleError:  # which the check of the file reports
            yield from names
