"""Apply the user's selection to the candidates, and connect their needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from loom.errors import Problem, RequestError
from loom.plan import model as p
from loom.plan.rules import Candidate, RuleDecision
from loom.util import globs
from loom.util.bounded import listed
from loom.util.toposort import closure
from loom.util.units import nearest
from loom.util.yaml_file import pointer
from loom.workflow import Workflow, models
from loom.workflow.values import VARIABLE


class Choice:
    """One selection. `left_out` gives the reason of each job that is not in the plan, `problems` the invalid needs."""

    def __init__(self, workflow: Workflow, selection: p.Selection) -> None:
        self.workflow = workflow
        self.selection = selection
        self.left_out: dict[str, str] = {}
        self.problems: list[Problem] = []
        self._index: dict[str, list[Candidate]] = {}
        self._index_of: Iterable[Candidate] | None = None

    def check_variables(self) -> None:
        for name in self.selection.variables:
            if not re.fullmatch(VARIABLE, name) or name.upper().startswith("LOOM_"):
                raise RequestError(
                    f"--var {name}: a variable name has letters, digits and _; no digit first, no LOOM_ prefix"
                )

    def select(self, candidates: list[Candidate]) -> dict[str, Candidate]:
        """Return the selected candidates by id; record those that their rules exclude."""
        pool = self.by_matrix(candidates)
        exact = self.named(pool)
        chosen = self.asked_for(pool)
        wants_needs = (
            self.selection.with_needs if self.selection.with_needs is not None else self.selection.from_job is None
        )
        if not self.selection.everything and wants_needs:
            chosen = closure(chosen, {c.id: self.gets_from(c, pool) for c in pool})
        for candidate in pool:
            if candidate.id in exact and not candidate.decision.runs:
                decision = candidate.decision
                base = candidate.entry.fields.when
                when = base if base in ("on_success", "on_failure", "always") else "on_success"
                candidate.decision = RuleDecision(
                    runs=True,
                    when=when,
                    variables=decision.variables,
                    allow_failure=decision.allow_failure,
                    rule=decision.rule,
                )
        result: dict[str, Candidate] = {}
        for candidate in candidates:
            if candidate.id not in chosen:
                self.left_out[candidate.id] = p.NOT_SELECTED
            elif not candidate.decision.runs:
                self.left_out[candidate.id] = candidate.decision.reason
            else:
                result[candidate.id] = candidate
        return result

    def by_matrix(self, candidates: list[Candidate]) -> list[Candidate]:
        for key, value in self.selection.matrix.items():
            values = dict.fromkeys(c.matrix[key] for c in candidates if key in c.matrix)
            if not values:
                keys = list(dict.fromkeys(name for c in candidates for name in c.matrix))
                close = nearest(key.upper(), [name.lower() for name in keys])
                meant = (
                    f"; did you mean {close.upper()}?" if close else f"; there are {', '.join(keys)}" if keys else ""
                )
                raise RequestError(f"--matrix {key}={value}: no job has a matrix variable {key}{meant}")
            if value not in values:
                raise RequestError(
                    f"--matrix {key}={value}: no combination has this value; its values are {', '.join(values)}"
                )
        wanted = self.selection.matrix.items()
        return [c for c in candidates if all(c.matrix.get(key, value) == value for key, value in wanted)]

    def named(self, pool: list[Candidate]) -> set[str]:
        """Return ids of jobs selected by name or id (not only by a pattern)."""
        asked = (*self.selection.jobs, *((self.selection.from_job,) if self.selection.from_job else ()))
        return {c.id for c in pool if c.id in asked or c.entry.name in asked}

    def asked_for(self, pool: list[Candidate]) -> set[str]:
        selection = self.selection
        chosen = {c.id for c in pool}
        if selection.jobs:
            chosen = set()
            for wanted in selection.jobs:
                matched = {c.id for c in pool if wanted in (c.id, c.entry.name)}
                if not matched and re.search(r"[*?\[]", wanted):
                    matched = {c.id for c in pool if globs.match_name(wanted, c.id, c.entry.name)}
                if not matched:
                    raise self.no_such_job(wanted, pool)
                chosen |= matched
        if selection.from_job is not None:
            chosen &= self.after(selection.from_job, pool)
        if selection.stages:
            chosen &= self.in_stages(pool)
        if selection.only_failed is not None:
            chosen &= set(selection.only_failed)
            if selection.only_failed and not chosen:
                names = ", ".join(selection.only_failed)
                raise RequestError(f"none of the failed jobs is in the workflow any longer: {names}")
        if selection.jobs and not chosen:
            raise RequestError("no job matches all selection options; use fewer of them")
        return chosen

    def in_stages(self, pool: list[Candidate]) -> set[str]:
        for stage in self.selection.stages:
            if stage not in self.workflow.stages:
                close = nearest(stage, self.workflow.stages)
                meant = f"did you mean {close}?" if close else f"there are {', '.join(self.workflow.stages)}"
                raise RequestError(f"unknown stage {stage}; {meant}")
        return {c.id for c in pool if c.stage in self.selection.stages}

    def after(self, start: str, pool: list[Candidate]) -> set[str]:
        """Return `start` and all jobs after it, by needs or by stage order."""
        position = {stage: number for number, stage in enumerate(self.workflow.stages)}
        found = {c.id for c in pool if start in (c.id, c.entry.name)}
        if not found:
            raise self.no_such_job(start, pool)
        earliest = min(position[c.stage] for c in pool if c.id in found)
        for candidate in pool:  # plan order makes one pass sufficient
            if candidate.entry.fields.needs is None:
                if position[candidate.stage] > earliest:
                    found.add(candidate.id)
            elif any(target.id in found for _, target in self.need_targets(candidate, pool)):
                found.add(candidate.id)
        return found

    def no_such_job(self, wanted: str, pool: list[Candidate]) -> RequestError:
        known = list(dict.fromkeys(name for c in pool for name in (c.entry.name, c.id)))
        if re.search(r"[*?\[]", wanted):
            return RequestError(f"no job matches {wanted}", hint=f"The jobs are {_some(known)}.")
        close = nearest(wanted, known)
        if wanted in self.workflow.stages:
            return RequestError(f"unknown job {wanted}, but a stage", hint=f"Select it with --stage {wanted}.")
        meant = f"; did you mean {close}?" if close else ""
        return RequestError(f"unknown job {wanted}{meant}", hint=f"The jobs are {_some(known)}.")

    def gets_from(self, candidate: Candidate, pool: list[Candidate]) -> list[str]:
        """Return the jobs that this one needs to find the same files as in CI: its needs, or the producers of its
        artifacts.
        """
        if candidate.entry.fields.needs is not None:
            return [target.id for _, target in self.need_targets(candidate, pool)]
        before = self.workflow.stages[: self.workflow.stages.index(candidate.stage)]
        return [c.id for c in pool if c.stage in before and c.decision.runs and _leaves_something(c)]

    def need_targets(
        self, candidate: Candidate, pool: Iterable[Candidate]
    ) -> Iterator[tuple[models.NeedFields, Candidate]]:
        fields = candidate.entry.fields
        if not fields.needs:
            return
        by_name = self._by_name(pool)
        for need in fields.needs:
            for target in by_name.get(need.job, ()):
                if all(target.matrix.get(key) == value for key, value in need.matrix.items()):
                    yield need, target

    def _by_name(self, pool: Iterable[Candidate]) -> dict[str, list[Candidate]]:
        if self._index_of is not pool:
            self._index, self._index_of = {}, pool
            for candidate in pool:
                self._index.setdefault(candidate.entry.name, []).append(candidate)
        return self._index

    def connect(self, candidates: list[Candidate], chosen: dict[str, Candidate]) -> list[Candidate]:
        """Connect the selected jobs by ids of their needs; a job with a missing need is left out or reported."""
        asked = self.named(candidates)
        jobs: list[Candidate] = []
        for candidate in chosen.values():
            if candidate.entry.fields.needs is None:
                jobs.append(candidate)
                continue
            needs: dict[str, p.Need] = {}
            blocked: str | None = None
            for need, target in self.need_targets(candidate, candidates):
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
                    blocked = blocked or f"needs {target.id}, which is left out ({reason})"
                else:
                    self.missing_need(candidate, need, target, reason)
            if blocked is None:
                candidate.needs = list(needs.values())
                jobs.append(candidate)
                continue
            if candidate.id in asked:
                raise RequestError(f"{candidate.id} {blocked}", hint="Name that job too, or add --no-needs.")
            self.left_out[candidate.id] = blocked
        return jobs

    def missing_need(self, candidate: Candidate, need: models.NeedFields, target: Candidate, reason: str) -> None:
        entry = candidate.entry
        listed = entry.merged.get("needs")
        numbers = [n for n, other in enumerate(entry.fields.needs or ()) if other is need]
        node = (listed.get(numbers[0]) if listed is not None and numbers else None) or entry.key
        message = f"{target.id} is not part of this run ({reason}); write {{job: {need.job}, optional: true}} if it is optional"
        self.problems.append(node.file.problem(node, pointer(entry.name, "needs", *numbers), message))


def _leaves_something(candidate: Candidate) -> bool:
    artifacts = candidate.entry.fields.artifacts
    return artifacts is not None and bool(artifacts.paths)


def _some(names: list[str]) -> str:
    return ", ".join(listed(names, 20))
