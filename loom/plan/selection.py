"""Apply the user's selection to the candidates, and connect their needs."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from loom.errors import Problem, RequestError
from loom.plan import model as p
from loom.plan.candidates import Candidate, index_by_name
from loom.util import globs
from loom.util.bounded import listed
from loom.util.toposort import closure
from loom.util.units import meant
from loom.workflow.needs import WantedNeed
from loom.workflow.words import VARIABLE

_ADDED = "Name that job too, or add --deploy or --no-needs."
C = TypeVar("C", bound=Candidate)


class Choice(Struct):
    """One selection. `left_out` gives the reason of each job that is not in the plan, `problems` the invalid needs.

    RequestError for an invalid name of a variable.
    """

    stages: Sequence[str]
    selection: p.JobSelection
    code: str = "WF_SCHEMA_V1"
    left_out: dict[str, str] = {}
    held: dict[str, str] = {}
    problems: list[Problem] = []
    _unknown: dict[str, tuple[str, ...]] = {}
    _artifacts: dict[str, tuple[str, ...]] = {}
    _makers: dict[str, list[str]] = {}
    """The jobs that leave artifacts for a stage, by stage."""
    _index: Mapping[str, Sequence[Candidate]] = {}
    """The candidates that needs may mean, by their names."""

    def __post_init__(self) -> None:
        for name in self.selection.variables:
            if not re.fullmatch(VARIABLE, name) or name.upper().startswith("LOOM_"):
                raise RequestError(
                    f"--var {name}: a variable name has letters, digits and _; no digit first, no LOOM_ prefix"
                )

    def select(self, candidates: Sequence[C]) -> dict[str, C]:
        """Return the selected candidates by id; record those that their rules exclude, and those that are held."""
        pool = self.select_matrix(candidates)
        self._index = index_by_name(pool)
        self._artifacts = {candidate.id: candidate.artifacts for candidate in candidates}
        exact = self.named(pool)
        chosen = self.asked_for(pool)
        wants_needs = (
            self.selection.with_needs if self.selection.with_needs is not None else self.selection.from_job is None
        )
        if not self.selection.everything and wants_needs:
            there = {candidate.id: candidate for candidate in pool}
            chosen = closure(chosen, lambda job_id: self.gets_from(there[job_id], pool))
        for candidate in pool:
            if candidate.id in exact and (not candidate.decision.runs or candidate.decision.when == "manual"):
                base = candidate.base_when
                when = base if base in ("on_success", "on_failure", "always") else "on_success"
                candidate.decision = replace(candidate.decision, runs=True, when=when, reason="")
        result: dict[str, C] = {}
        for candidate in candidates:
            if candidate.id not in chosen:
                self.left_out[candidate.id] = p.NOT_SELECTED
            elif not candidate.decision.runs:
                self.left_out[candidate.id] = candidate.decision.reason
                self._unknown[candidate.id] = candidate.unknown_values
            elif candidate.decision.when == "manual":
                result[candidate.id] = candidate  # CI would not run it by itself either
            elif candidate.held and (candidate.id not in exact or candidate.held.even_if_named):
                self.left_out[candidate.id] = candidate.held.reason
                self.held[candidate.id] = candidate.held.kind
            else:
                result[candidate.id] = candidate
        return result

    def refuse_held(self, candidates: Sequence[Candidate], *, hint: str, code: str) -> None:
        """Raise RequestError where a name means only jobs that can't run here."""
        for wanted in self.selection.jobs:
            held = [one.held for one in candidates if wanted in one.names]
            reasons = [one.reason for one in held if one is not None and one.even_if_named]
            if reasons and len(reasons) == len(held) and not self.selection.if_possible:
                raise RequestError(f"{wanted}: {reasons[0]}", hint=hint, code=code)

    def not_selected(self) -> tuple[p.NotSelected, ...]:
        return tuple(
            p.NotSelected(
                id=name,
                reason=reason,
                held=self.held.get(name, ""),
                artifacts=self._artifacts.get(name, ()),
                unknown=self._unknown.get(name, ()),
            )
            for name, reason in self.left_out.items()
        )

    def select_matrix(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        for key, value in self.selection.matrix.items():
            values = dict.fromkeys(c.matrix[key] for c in candidates if key in c.matrix)
            if not values:
                keys = ", ".join(dict.fromkeys(name for c in candidates for name in c.matrix)) or "none"
                raise RequestError(f"--matrix {key}={value}: no job has a matrix variable {key}; there are {keys}")
            if value not in values:
                raise RequestError(
                    f"--matrix {key}={value}: no combination has this value; its values are {', '.join(values)}"
                )
        wanted = self.selection.matrix.items()
        return [c for c in candidates if all(c.matrix.get(key, value) == value for key, value in wanted)]

    def named(self, pool: Sequence[Candidate]) -> set[str]:
        """Return ids of jobs selected by name or id (not only by a pattern)."""
        asked = (*self.selection.jobs, *((self.selection.from_job,) if self.selection.from_job else ()))
        return {c.id for c in pool if any(name in asked for name in c.names)}

    def asked_for(self, pool: list[Candidate]) -> set[str]:
        selection = self.selection
        chosen = {c.id for c in pool}
        if selection.jobs:
            chosen = set()
            for wanted in selection.jobs:
                matched = {c.id for c in pool if wanted in c.names}
                matched = matched or {c.id for c in pool if c.becomes_several and wanted.startswith(f"{c.id}.")}
                if not matched and re.search(r"[*?\[]", wanted):
                    matched = {c.id for c in pool if globs.match_name(wanted, *c.names)}
                if not matched:
                    raise self.no_such_job(wanted, pool)
                chosen |= matched
        if selection.from_job is not None:
            chosen &= self.select_from(selection.from_job, pool)
        if selection.stages:
            chosen &= self.select_stages(pool)
        if selection.jobs and not chosen:
            raise RequestError("no job matches all selection options; use fewer of them")
        return chosen

    def select_stages(self, pool: list[Candidate]) -> set[str]:
        for stage in self.selection.stages:
            if stage not in self.stages:
                advice = meant(stage, self.stages) or f"; there are {', '.join(self.stages)}"
                raise RequestError(f"unknown stage {stage}{advice}")
        return {c.id for c in pool if c.stage in self.selection.stages}

    def select_from(self, start: str, pool: list[Candidate]) -> set[str]:
        """Return `start` and all jobs after it, by needs or by stage order."""
        position = {stage: number for number, stage in enumerate(self.stages)}
        found = {c.id for c in pool if start in c.names}
        if not found:
            raise self.no_such_job(start, pool)
        earliest = min(position[c.stage] for c in pool if c.id in found)
        for candidate in pool:  # plan order makes one pass sufficient
            if candidate.wanted is None:
                if position[candidate.stage] > earliest:
                    found.add(candidate.id)
            elif any(target.id in found for _, target in self.need_targets(candidate)):
                found.add(candidate.id)
        return found

    def no_such_job(self, wanted: str, pool: list[Candidate]) -> RequestError:
        known = list(dict.fromkeys(name for c in pool for name in (c.name, *c.names)))
        if re.search(r"[*?\[]", wanted):
            return RequestError(f"no job matches {wanted}", hint=f"The jobs are {_some(known)}.")
        if wanted in self.stages:
            return RequestError(f"unknown job {wanted}, but a stage", hint=f"Select it with --stage {wanted}.")
        if wanted.endswith((".yml", ".yaml")):
            return RequestError(
                f"unknown job {wanted}", hint=f"A workflow's file is named with --workflow {wanted} (-f)."
            )
        if re.fullmatch(r"\d{16,}", wanted):
            hint = f"A run is repeated by `loom rerun {wanted}`, and looked at by `loom show {wanted}`."
            return RequestError(f"unknown job {wanted}, but a run's id", hint=hint)
        alike = [name for name in known if wanted.lower() in name.lower()]
        hint = f"Jobs with that in their name: {_some(alike)}." if alike else f"The jobs are {_some(known)}."
        if "," in wanted:
            hint = f"A space is between two jobs: {wanted.replace(',', ' ')}. {hint}"
        return RequestError(f"unknown job {wanted}{meant(wanted, known)}", hint=hint)

    def gets_from(self, candidate: Candidate, pool: list[Candidate]) -> list[str]:
        """Return the jobs that this one needs to find the same files as in CI: its needs, or the producers of its
        artifacts.
        """
        if candidate.wanted is not None:
            return [target.id for _, target in self.need_targets(candidate)]
        if candidate.stage not in self._makers:
            before = self.stages[: self.stages.index(candidate.stage)]
            makers = [c.id for c in pool if c.stage in before and c.decision.runs and c.leaves_artifacts]
            self._makers[candidate.stage] = makers
        return self._makers[candidate.stage]

    def need_targets(self, candidate: Candidate) -> Iterator[tuple[WantedNeed, Candidate]]:
        for need in candidate.wanted or ():
            for target in self._index.get(need.job, ()):
                if need.means(target.matrix):
                    yield need, target

    def connect(self, candidates: Sequence[C], chosen: Mapping[str, C]) -> list[C]:
        """Connect the selected jobs by ids of their needs; a job with a missing need is left out or reported."""
        asked = self.named(candidates)
        self._index = index_by_name(candidates)
        jobs: list[C] = []
        for candidate in chosen.values():
            if candidate.wanted is None:
                jobs.append(candidate)
                continue
            needs: dict[str, p.Need] = {}
            blocked: str | None = None
            held = False
            for need, target in self.need_targets(candidate):
                reason = self.left_out.get(target.id)
                if reason is None:
                    earlier = needs.get(target.id)
                    needs[target.id] = p.Need(
                        job=target.id,
                        optional=need.optional and (earlier is None or earlier.optional),
                        artifacts=need.artifacts or (earlier is not None and earlier.artifacts),
                    )
                elif reason == p.NOT_SELECTED or need.optional:
                    continue
                elif target.decision.when == "manual" or not target.decision.reason:
                    held = held or target.id in self.held
                    why = "" if target.id in self.held else f" ({reason})"
                    blocked = blocked or f"needs {target.id}, which is left out{why}"
                else:
                    self.missing_need(need, target, reason)
            if blocked is None:
                candidate.needs = list(needs.values())
                jobs.append(candidate)
                continue
            if candidate.id in asked and not self.selection.if_possible:
                raise RequestError(
                    f"{candidate.id} {blocked}", hint=_ADDED if held else "Name that job too, or add --no-needs."
                )
            if held:
                self.held[candidate.id] = "what needs them"
            self.left_out[candidate.id] = blocked
        return jobs

    def missing_need(self, need: WantedNeed, target: Candidate, reason: str) -> None:
        advice = f"add `optional: true` to the need of {need.job} if it may be missing"
        if not self.selection.everything:
            advice = "name it too, or add --no-needs"
        message = f"{target.id} is not part of this run ({reason}); {advice}"
        self.problems.append(need.node.file.problem(need.node, message, code=self.code))


def held_back(plan: p.Plan) -> tuple[str, ...]:
    """Return the line about the jobs that a run leaves out though CI runs them, if there are any."""
    by_reason: dict[str, list[p.NotSelected]] = {}
    for left in plan.left_out:
        if left.held:
            by_reason.setdefault(left.held, []).append(left)
    told = [
        f"{', '.join(listed([one.id for one in several], 10))} ({why if len(several) > 1 else several[0].reason})"
        for why, several in by_reason.items()
    ]
    return (f"left out: {'; '.join(told)}",) if told else ()


def _some(names: list[str]) -> str:
    return ", ".join(listed(names, 20))


def dependents(plan: p.Plan, job_ids: Collection[str]) -> set[str]:
    """Return these jobs and all that wait for them, directly or not."""
    again = set(job_ids)
    position = {stage: number for number, stage in enumerate(plan.stages)}
    first = min((position[job.stage] for job in plan.jobs if job.id in again), default=len(position))
    for job in plan.jobs:  # in topological order
        if first < position[job.stage] if job.needs is None else any(need.job in again for need in job.needs):
            again.add(job.id)
            first = min(first, position[job.stage])
    return again
