"""Read an action that a step of the job has written, when the step that uses it begins."""

from __future__ import annotations

import posixpath
from collections.abc import Callable

from msgspec.structs import replace

from loom.errors import WorkflowError
from loom.plan.github.actions import NAMES, ActionFile, BadAction, described
from loom.plan.github.steps import StepList
from loom.plan.late import Action
from loom.plan.model import Step
from loom.util.budget import LOOKING_S, limited
from loom.util.yaml_file import Kind, Node, YamlFile
from loom.workflow.github import yaml

_SHARED = ("key", "name", "scope", "condition", "env", "continue_on_error", "timeout_minutes")


def steps_of(step: Step, content: Callable[[str], bytes | None], first: int, taken: set[str]) -> tuple[Step, ...]:
    """Return the steps that a step with a written action becomes; the last main one has its id. BadAction.

    `content` returns a file of the job; `first` is the number of the first step; `taken`: the names of scopes so far, in lower
    case.
    """

    def read(uses: str, _: str) -> ActionFile:
        return _read(uses, content)

    def refused(_: Node, why: str) -> None:
        raise BadAction(why)

    def fetch(_: object) -> None:
        return None

    collected = StepList(read, fetch, {}, refused, lambda _: False, taken=taken)
    common = {name: getattr(step, name) for name in _SHARED}
    at = Node(YamlFile(name=step.file), Kind.SCALAR, step.script, step.line, 1, 0)
    try:
        with limited(LOOKING_S):
            collected.use(step.script, at, step.inputs, common)
            steps = collected.steps(first)
    except WorkflowError as error:
        raise BadAction(error.message) from error
    own = [one for one in steps if one.stage == "main"][-1]
    found = []
    for one in steps:
        if one is own:
            one = replace(one, number=step.number)
        elif one.main == own.id:
            one = replace(one, main=step.id)
        found.append(one)
    return tuple(found)


def _read(uses: str, content: Callable[[str], bytes | None]) -> ActionFile:
    if not uses.startswith("./"):
        raise BadAction(f"{uses}: an action that the job has written can use only actions of the job's files (./PATH)")
    path = posixpath.normpath(uses)
    for name in (*NAMES, "Dockerfile"):
        file = posixpath.normpath(f"{path}/{name}")
        if (data := content(file)) is not None:
            action = Action(uses=uses, path=path)
            if name != "Dockerfile" and (found := described(yaml.parse(data, file), action)).action.using != "docker":
                return found
            raise BadAction(f"{uses}: it runs in a container, whose image has to be known before the run; commit it")
    raise BadAction(f"{uses}: the job's files have no {posixpath.normpath(f'{path}/{NAMES[0]}')}")
