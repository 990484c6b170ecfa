"""Turn a pipeline into a plan: candidates, selection, jobs."""

from __future__ import annotations

from loom.errors import Problem, WorkflowError
from loom.plan import model as p
from loom.plan.builder import held
from loom.plan.candidates import index_by_name, undecided
from loom.plan.gitlab.candidates import Candidates
from loom.plan.gitlab.jobs import GitLabJobBuilder
from loom.plan.selection import Choice
from loom.workflow.gitlab import limits, needs, rules, variables, yaml
from loom.workflow.gitlab.pipeline import Entry, Pipeline
from loom.workflow.messages import Problems
from loom.workflow.rules import decision

HELD = "GL_LEFT_OUT"


def resolve(pipeline: Pipeline, selection: p.JobSelection, context: p.ResolveContext) -> p.Plan:
    """Implement `plan.resolve.resolve`."""
    choice = Choice(pipeline.stages, selection, yaml.CODE)
    candidates = Candidates(pipeline, selection, context)
    found = candidates.all()
    candidates.check_needs(found)
    jobs = choice.connect(found, choice.select(found))
    builder = GitLabJobBuilder(candidates, context, {one.id: one for one in found})
    built = tuple(builder.job(candidate) for candidate in jobs)
    errors = [one for one in (*candidates.problems.found, *_checked(pipeline)) if one.severity == "error"]
    problems = errors + choice.problems + builder.errors + builder.errors_of_named(choice, jobs)
    if problems:
        raise WorkflowError(problems)
    why = "its rules do not hold"
    includes = [p.NotSelected(id=name, reason=why, unknown=names) for name, names in pipeline.undecided.items()]
    return p.Plan(
        workflow_path=pipeline.path,
        stages=tuple(
            stage for stage in pipeline.stages if any(entry.stage == stage for entry in pipeline.jobs.values())
        ),
        jobs=built,
        left_out=(*choice.not_selected(), *includes),
        ends_at_failure=candidates.ends_at_failure,
        undecided=undecided(found, pipeline.root.find("workflow", "rules"), candidates.scope().expanded),
    )


def rehearse(
    pipeline: Pipeline, selection: p.JobSelection, context: p.ResolveContext
) -> tuple[list[Problem], list[tuple[Entry, p.Job]]]:
    """Implement `plan.resolve.rehearse`."""
    candidates = Candidates(pipeline, selection, context)
    found = [
        candidates.candidate(entry, instance, decision("on_success"))
        for name, entry in pipeline.jobs.items()
        for instance in candidates.instances[name]
    ]
    ids = {name: [one.id for one in named] for name, named in index_by_name(found).items()}
    for one in found:
        if one.wanted is not None:
            one.needs = [p.Need(job=job) for need in one.wanted for job in ids.get(need.job, [need.job])]
    builder = GitLabJobBuilder(candidates, context, {one.id: one for one in found})
    jobs = [(candidate.entry, builder.job(candidate)) for candidate in found]
    problems = [*_checked(pipeline), *candidates.problems.found, *builder.problems, *held(found, code=HELD)]
    return problems, jobs


def _checked(pipeline: Pipeline) -> list[Problem]:
    """Return the problems that do not depend on the event: conditions, numbers of instances, needs."""
    problems = Problems(code=yaml.CODE)
    variables.check(pipeline.root.get("variables"), problems)
    rules.check(pipeline.root.find("workflow", "rules"), problems)
    for entry in pipeline.jobs.values():
        rules.check(entry.merged.get("rules"), problems)
    needs.check(pipeline, problems)
    limits.check_stops({name: entry.merged for name, entry in pipeline.jobs.items()}, problems)
    return problems.found
