"""The warnings of `loom check`: valid values that are almost certainly mistakes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from typing import TypeVar

from loom.errors import Problem
from loom.util.yaml_file import Node, fields_of, items_of, one_or_more
from loom.workflow import expressions, interpolation
from loom.workflow import loaded as any_language
from loom.workflow.loaded import Loaded
from loom.workflow.native.inheritance import Entry
from loom.workflow.native.loader import Workflow
from loom.workflow.parser import InvalidExpression

E = TypeVar("E", bound=any_language.Entry)

_LOST = re.compile(
    r"(cd|pushd|export|source|\.|alias|unset|set|shopt|umask|ulimit|trap)(\s+|$)|[A-Za-z_][A-Za-z0-9_]*=\S*$"
)


def warnings(workflow: Loaded, *, predefined: Collection[str]) -> list[Problem]:
    """Return every warning in file order; of another dialect's file the notices of what has no effect.

    `predefined` are the names that loom sets.
    """
    if not isinstance(workflow, Workflow):
        return list(workflow.notices)
    found = [*_steps(workflow.entries.values()), *_unknown_names(workflow, predefined, workflow.jobs.values())]
    return _sorted_problems(workflow, found)


def run_warnings(workflow: Loaded, jobs: Collection[str], *, defined: Collection[str]) -> list[Problem]:
    """Return the warnings that change what jobs of these names do in a run; `workflow` is in loom's language."""
    assert isinstance(workflow, Workflow)
    entries = [entry for name, entry in workflow.jobs.items() if name in jobs]
    return _sorted_problems(workflow, [*_steps(entries), *_unknown_names(workflow, defined, entries)])


def _sorted_problems(workflow: Workflow, found: Iterable[Problem]) -> list[Problem]:
    rank = {file.name: number for number, file in enumerate(workflow.files)}
    return sorted(dict.fromkeys(found), key=lambda p: (rank.get(p.file, 0), p.line, p.column, p.code))


def _warn(node: Node, code: str, message: str) -> Problem:
    return node.file.problem(node, message, code=code, severity="warning")


def _steps(entries: Iterable[Entry]) -> Iterator[Problem]:
    for entry, node in scripts_of(entries):
        below = node.file.line(node.line + 1) or ""
        if node.style == "" and " - " in node.text and re.match(rf"\s{{{node.column - 2},}}- ", below):
            message = "YAML takes this line and the next, indented more, for one command: align the two dashes"
            yield _warn(node, "WF_STEP_JOINED", message)
        lines = [
            line.strip()
            for line in re.split(r"\n|&&|;", node.text)
            if line.strip() and not line.strip().startswith("#")
        ]
        if (
            entry.fields.get("shared_shell")
            or not lines
            or "LOOM_ENV" in node.text
            or not all(_LOST.match(line) for line in lines)
        ):
            continue
        word = lines[-1].split()[0]
        advice = "write it in one step with the commands it is for (a step may have several lines)"
        if word == "export" or "=" in word:
            advice = 'use `variables`, or hand it on: echo "NAME=value" >> "$LOOM_ENV"'
        message = f"each step is a fresh shell: {'this variable' if '=' in word else word} ends with it; {advice}"
        yield _warn(node, "WF_STEP_LOST", message)


def scripts_of(entries: Iterable[E]) -> Iterator[tuple[E, Node]]:
    """Yield every step with its inherited values: the job, and the text."""
    for entry in entries:
        for key in ("before_script", "script", "after_script"):
            for node in one_or_more(entry.merged, key):
                if isinstance(node.value, str):
                    yield entry, node


def _unknown_names(workflow: Workflow, predefined: Collection[str], entries: Iterable[Entry]) -> Iterator[Problem]:
    everywhere = {*workflow.variables, *predefined}
    for setting in workflow.rules or ():
        everywhere |= setting.get("variables", {}).keys()
    for node in _conditions(workflow.rules_node):
        yield from _unknown_in_condition(node, everywhere)
    for entry in entries:
        fields = entry.fields
        secrets = fields.get("secrets", {})
        own = {*fields.get("variables", {}), *secrets}
        for row in fields.get("parallel", {}).get("matrix", ()):
            own |= row.keys()
        for rule in fields.get("rules", ()):
            own |= rule.get("variables", {}).keys()
        known = everywhere | own
        for node in _conditions(entry.merged.get("rules")):
            yield from _unknown_in_condition(node, known)
        for name, node in fields_of(entry.merged, "variables").items():
            yield from _unknown_in_value(entry, name, node, known, secrets)


def _conditions(rules: Node | None) -> Iterator[Node]:
    for rule in items_of(rules):
        condition = rule.get("if")
        if condition is not None and isinstance(condition.value, str):
            yield condition


def _unknown_in_condition(node: Node, known: Collection[str]) -> Iterator[Problem]:
    try:
        expressions.parse(node.value)
    except InvalidExpression:
        return
    for name in dict.fromkeys(expressions.names(node.value)):
        if name not in known:
            message = f"${name} is not defined; it is null unless set by --var"
            yield _warn(node, "WF_NAME_UNKNOWN", message)


def _unknown_in_value(
    entry: Entry, name: str, node: Node, known: Collection[str], secrets: Collection[str]
) -> Iterator[Problem]:
    if not isinstance(node.value, str) or "$" not in node.value:
        return
    for other in dict.fromkeys(interpolation.names(node.value)):
        if other in secrets:
            message = f"${other} is a secret, which only steps can read; it is not expanded here"
            yield _warn(node, "WF_NAME_UNKNOWN", message)
        elif other.startswith("LOOM_SERVICE_") and entry.fields.get("services"):
            continue  # expanded when the service starts
        elif other not in known:
            message = (
                f"${other} is unknown at planning time and is not expanded; "
                f"set {name} in a step, or write $$ to mean it"
            )
            yield _warn(node, "WF_NAME_UNKNOWN", message)
