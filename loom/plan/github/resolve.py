"""Turn GitHub's workflows into a plan: candidates, selection, jobs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from loom.errors import InfrastructureError, NoJobRuns, Problem, RequestError, WorkflowError
from loom.plan import builder
from loom.plan import model as p
from loom.plan.github.candidates import GitHubCandidate, GitHubCandidates
from loom.plan.github.jobs import GitHubJobBuilder
from loom.plan.selection import Choice
from loom.plan.variables import EVENTS
from loom.util.bounded import listed
from loom.util.units import meant
from loom.util.yaml_file import items_of, text_of
from loom.workflow.github import yaml
from loom.workflow.github.events import DISPATCH
from loom.workflow.github.shapes import UNSUPPORTED
from loom.workflow.github.workflows import CALL, Entry, Workflows
from loom.workflow.predefined import KNOWN_TO_PLANS

HELD = "GH_LEFT_OUT"
_INSTALLS = re.compile(r"(?m)(?<!\\\n)^[ \t]*(apt(?:-get)?) (?:-\S+ )*(?:install|update|upgrade)\b")


def resolve(workflows: Workflows, selection: p.JobSelection, context: p.ResolveContext) -> p.Plan:
    """Implement `plan.resolve.resolve`."""
    choice = Choice(workflows.stages, selection, yaml.CODE)
    candidates = GitHubCandidates(workflows, context)
    _refuse_unknown(workflows, context.inputs, candidates.event.happened.name)
    faulty = candidates.refuse_faulty(selection)
    found = candidates.all()
    wrong = [*candidates.problems.found, *candidates.of_values.found]
    if wrong:
        raise WorkflowError(wrong)
    choice.refuse_held(
        found,
        hint="`--image LABEL=IMAGE` (`images: {LABEL: IMAGE}` in the configuration) runs it in an image",
        code=UNSUPPORTED,
    )
    jobs = choice.connect(found, choice.select(found))
    made = GitHubJobBuilder(candidates, context, selection)
    made.there = frozenset(candidate.id for candidate in jobs)
    built = tuple(made.job(candidate) for candidate in jobs)
    if made.unreachable and not candidates.everything:
        first: dict[str, str] = {}
        for text in made.unreachable:
            position, _, action = text.partition(": uses: ")
            first.setdefault(action, f"{position}: uses: ")
        *others, last = first
        before = [
            first[action] + action.partition(": ")[0] for action in others
        ]  # the reason is told with the last one
        raise InfrastructureError("\n".join((*before, first[last] + last)), code="ACTION_UNREACHABLE")
    problems = [*choice.problems, *candidates.of_values.found, *made.errors_of_named(choice, jobs)]
    if problems:
        raise WorkflowError(problems)
    if not built and selection.everything:
        raise _nothing(workflows, choice, candidates)
    used = {job.stage for job in built}
    return p.Plan(
        workflow_path=workflows.path,
        stages=tuple(stage for stage in workflows.stages if stage in used),
        jobs=built,
        left_out=(*choice.not_selected(), *(p.NotSelected(id=name, reason=why) for name, why in faulty.items())),
    )


def problems_of_inputs(workflows: Workflows, inputs: Mapping[str, str]) -> list[Problem]:
    """Return the problems of the inputs of a manual run. RequestError for an input that no file declares."""
    _refuse_unknown(workflows, inputs, DISPATCH)
    known = {**dict.fromkeys(KNOWN_TO_PLANS, "x"), "LOOM_EVENT": DISPATCH}
    candidates = GitHubCandidates(workflows, p.ResolveContext(inputs=inputs, predefined=known))
    for file in workflows.workflows:
        candidates.check_inputs(file)
    return candidates.problems.found


def _refuse_unknown(workflows: Workflows, inputs: Mapping[str, str], event: str) -> None:
    """Raise RequestError for inputs that no file takes from this event."""
    files = [file for file in workflows.workflows if event == DISPATCH or file.only_called]
    known = {name for file in files for name in file.inputs(CALL if file.only_called else DISPATCH)}
    for name in inputs:
        if name not in known:
            hint = (
                "--event workflow_dispatch takes inputs"
                if event != DISPATCH
                else f"the inputs: {', '.join(sorted(known)) or 'none'}"
            )
            raise RequestError(f"--input {name}: no workflow takes it from {event}{meant(name, known)}", hint=hint)


def _nothing(workflows: Workflows, choice: Choice, candidates: GitHubCandidates) -> NoJobRuns:
    """Return the reason why no job is left, and the events that have some."""
    event = candidates.event.happened.name
    reasons = {reason: job_id for job_id, reason in reversed(choice.left_out.items())}
    told = listed([f"{job_id}: {reason}" for reason, job_id in reversed(reasons.items())], 5)
    others = [one for one in EVENTS if one != event and any(one in file.events for file in workflows.workflows)]
    advice = f"Other events: {', '.join(f'--event {one}' for one in others)}. " if others else ""
    error = NoJobRuns(
        f"no job of {workflows.path} runs for {event}: {'; '.join(told)}",
        hint=f"{advice}A job that you name runs all the same.",
    )
    error.left_out = choice.not_selected()
    return error


def rehearse(
    workflows: Workflows, selection: p.JobSelection, context: p.ResolveContext
) -> tuple[list[Problem], list[tuple[Entry, p.Job]]]:
    """Implement `plan.resolve.rehearse`."""
    candidates = GitHubCandidates(workflows, context, everything=True)
    found = candidates.all()
    made = GitHubJobBuilder(candidates, context, selection)
    made.there = frozenset(one.id for one in found)
    jobs = [(candidate.entry, made.job(candidate)) for candidate in found]
    problems = [
        *candidates.problems.found,
        *made.warnings(),
        *made.unexpected,
        *_root_installs(found),
        *builder.held(found, code=HELD),
    ]
    return problems, jobs


def _root_installs(candidates: Iterable[GitHubCandidate]) -> Iterator[Problem]:
    """Yield a warning of steps that install as root, which a job without `container` is here alone."""
    for candidate in candidates:
        if candidate.node.get("container") is None:
            for run in filter(None, (step.get("run") for step in items_of(candidate.node, "steps"))):
                if (found := _INSTALLS.search(text_of(run))) is not None and "docker" not in text_of(run):
                    message = f"on GitHub's machines steps are not root, as they are here: write `sudo {found[1]}`"
                    yield run.file.problem(run, message, code=yaml.CODE, severity="warning")
