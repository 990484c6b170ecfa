"""Turn a workflow in loom's own language into a plan: candidates, selection, jobs."""

from __future__ import annotations

from collections.abc import Sequence

from loom.errors import Problem, WorkflowError
from loom.plan import model as p
from loom.plan.candidates import undecided
from loom.plan.native.candidates import RuleEvaluator, candidate_of, instances_of
from loom.plan.native.jobs import JobBuilder
from loom.plan.selection import Choice
from loom.workflow.native.inheritance import Entry
from loom.workflow.native.loader import Workflow
from loom.workflow.rules import decision


def resolve(workflow: Workflow, selection: p.JobSelection, context: p.ResolveContext) -> p.Plan:
    """Implement `plan.resolve.resolve`."""
    choice = Choice(workflow.stages, selection)
    rules = RuleEvaluator(workflow, selection, context)
    candidates = rules.candidates()
    jobs = choice.connect(candidates, choice.select(candidates))
    builder = JobBuilder(workflow, selection, context, rules.workflow_variables)
    built = tuple(builder.job(candidate) for candidate in jobs)
    problems = choice.problems + builder.problems
    if problems:
        raise WorkflowError(problems)
    return p.Plan(
        workflow_path=workflow.path,
        stages=workflow.stages,
        jobs=built,
        left_out=choice.not_selected(),
        undecided=undecided(candidates, workflow.rules_node, rules.rule_values({}, {}, {})),
    )


def rehearse(
    workflow: Workflow, selection: p.JobSelection, context: p.ResolveContext
) -> tuple[list[Problem], Sequence[tuple[Entry, p.Job]]]:
    """Implement `plan.resolve.rehearse`."""
    builder = JobBuilder(workflow, selection, context, {})
    there = instances_of(workflow)
    jobs: list[tuple[Entry, p.Job]] = []
    for entry in workflow.jobs.values():
        given: dict[str, str] = {}
        for rule in (*(workflow.rules or ()), *entry.fields.get("rules", ())):
            given |= rule.get("variables", {})
        decided = decision("on_success", variables=given)
        jobs += [(entry, builder.job(candidate_of(entry, one, decided))) for one in there[entry.name]]
    return builder.problems, jobs
