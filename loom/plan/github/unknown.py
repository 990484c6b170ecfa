"""The values that only GitHub knows, on which an `if` depends: variables of the project, who pushes, parts of the event."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from loom.plan.late import LateCaller, LateJob
from loom.plan.model import Job
from loom.workflow.github.expressions import (
    Context,
    Literal,
    Node,
    Operation,
    Value,
    condition,
    evaluate,
    nodes_below,
    parts_of,
    truth,
)
from loom.workflow.parser import InvalidExpression

_KNOWN = re.compile(
    r"""github\.(?:
      event_name|ref|ref_name|ref_type|head_ref|base_ref|sha|workflow|workflow_ref|workflow_sha|job|(?:server|api|graphql)_url
    | event\.(?:ref|before|after|action|number|schedule|deleted|inputs(?:\..+)?
      | head_commit\.(?:id|message|timestamp)
      | repository\.(?:name|full_name|default_branch|owner\.(?:login|name))
      | pull_request\.(?:head|base)\.(?:ref|sha|repo\..+))
    )""",
    re.VERBOSE,
)
"""What git and the event say."""
_ONLY_THERE = {"base_ref", "compare", "enterprise", "installation", "organization"}
"""Parts of events that the payload here does not have."""
_WHO = {"github.actor", "github.triggering_actor"}
_APP = "[bot]"
_GOING_WELL = {
    "success": lambda *_: True,
    "always": lambda: True,
    "failure": lambda *_: False,
    "cancelled": lambda: False,
}


def unknown_in(written: str, contexts: Mapping[str, Value]) -> tuple[str, ...]:
    """Return the values without which an `if` can't be decided as on the server."""
    return tuple(dict.fromkeys(_open(condition(written), contexts)))


def unknown_of(job: Job, *, skipped: bool) -> tuple[str, ...]:
    """Return the values that only the server knows, with which it may run what a run here skips: steps, or the whole job."""
    if job.late is None:
        return ()
    contexts, none = job.late.contexts, dict[str, str]()
    asked = [(step.condition, contexts, {**job.late.env, **step.env}) for step in job.steps if step.condition]
    above: LateJob | LateCaller | None = job.late if skipped else None
    while above is not None:
        asked.append((above.condition, above.contexts, none))
        above = above.caller
    trees = [(condition(written), contexts, env) for written, contexts, env in asked]
    found = [_followed(*one) for one in trees if not _decides(one[0], "||", one[1])]
    return tuple(dict.fromkeys(name for names in found for name in names))


def _followed(node: Node, contexts: Mapping[str, Value], env: Mapping[str, str]) -> Iterator[str]:
    """Yield the unknown values of a tree, also those from which its variables of the environment are made."""
    for name in _open(node, contexts):
        context, _, variable = name.partition(".")
        if context != "env":
            yield name
            continue
        others = {one: text for one, text in env.items() if one != variable}
        for part in parts_of(env.get(variable, "")):
            if not isinstance(part, str):
                yield from _followed(part.node, contexts, others)


def _open(node: Node, contexts: Mapping[str, Value]) -> list[str]:
    if isinstance(node, Operation) and node.operator in ("&&", "||", "!"):
        found = []
        for one in node.operands:
            names = _open(one, contexts)
            if not names and node.operator != "!" and _decides(one, node.operator, contexts):
                return []
            found += names
        return found
    paths = list(_paths(node))
    if isinstance(node, Operation) and {*paths} <= _WHO and any(_is_app(one) for one in node.operands):
        return []  # a person pushes
    return [path for path in paths if _is_unknown(path, contexts)]


def _is_app(node: Node) -> bool:
    return isinstance(node, Literal) and str(node.value).endswith(_APP)


def _decides(node: Node, operator: str, contexts: Mapping[str, Value]) -> bool:
    try:
        return truth(evaluate(node, contexts, _GOING_WELL)) is (operator == "||")
    except InvalidExpression:  # known in the run alone
        return False


def _paths(node: Node) -> Iterator[str]:
    """Yield what a tree reads, as `github.event.number`; up to an index that is computed."""
    path = _path(node)
    if path is not None:
        yield path
        return
    for one in nodes_below(node):
        yield from _paths(one)


def _path(node: Node) -> str | None:
    match node:
        case Context(name):
            return name
        case Operation("*", (inner,)):
            above = _path(inner)
            return above and f"{above}.*"
        case Operation("[]", (inner, Literal(value))):
            above = _path(inner)
            return above and f"{above}.{value}"
        case _:
            return None


def _is_unknown(path: str, contexts: Mapping[str, Value]) -> bool:
    first, _, name = path.partition(".")
    if first == "env":
        return True  # which a job knows when it runs
    if first == "vars":
        return name.lower() not in {one.lower() for one in contexts.get("vars") or {}}
    if first != "github" or _KNOWN.fullmatch(path.lower()):
        return False
    github = contexts["github"]
    if name.lower() in ("repository", "repository_owner"):
        return str(github["repository"]).startswith("local/")  # without a remote
    part = name.lower().split(".")[1:2]
    return not name.lower().startswith("event.") or part[0] in {*github["event"], *_ONLY_THERE}
