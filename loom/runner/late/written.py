"""Actions that steps write into the workspace: what they become when their turn comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain, count

from msgspec.structs import replace

from loom.plan.github.actions import ActionFile, BadAction, NoAction, of_workspace
from loom.plan.github.steps import StepList
from loom.plan.late import Action
from loom.plan.model import Job, Step
from loom.util.yaml_file import Node
from loom.workflow.github import yaml

_COMMON = ("id", "name", "scope", "condition", "env", "continue_on_error", "timeout_minutes")


def become(job: Job, step: Step, data_of: Callable[[str], bytes]) -> tuple[Step, ...]:
    """Return the steps that a "written" one becomes; `data_of` as of `of_workspace`. Raises BadAction."""

    first = iter([step.script])

    def read(uses: str, _: str) -> ActionFile:
        if uses.startswith("docker://"):
            return ActionFile(action=Action(uses=uses, using="docker", image=uses))
        if uses.startswith("./") and next(first, None) is None:
            raise NoAction(uses)  # it has its own turn, before which a step of this one may write it
        if uses.startswith("./"):
            return of_workspace(uses, data_of)
        raise BadAction(f"{uses}: loom fetches no action for one that a step has written; use it in the workflow")

    def fetch(inputs: Mapping[str, str]) -> None:
        if any(name.lower() == "repository" for name in inputs):
            raise BadAction("an action that a step has written can't fetch one")

    def refuse(_: Node, why: str) -> None:
        raise BadAction(why.removeprefix("uses: "))

    late = step.late
    assert late is not None
    taken = {name for one in job.steps if one.late is not None for name in one.late.scope}
    found = StepList(read, fetch, {}, refuse, taken)
    own = yaml.parse(b"uses", step.file).root
    assert own is not None
    found.use(step.script, own, late.inputs, {name: getattr(late, name) for name in _COMMON})
    numbers = chain([step.number], count(max(one.number for one in job.steps) + 1))
    return tuple(_of(step, one) for one in found.steps(numbers))


def _of(step: Step, one: Step) -> Step:
    assert one.late is not None
    line = step.line if one.file == step.file else one.line
    return replace(one, line=line, late=replace(one.late, of=step.id))
