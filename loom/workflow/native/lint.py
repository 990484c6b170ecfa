"""The warnings of `loom check`: valid values that are almost certainly mistakes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TypeVar

from loom.config import AUTO_SHELL
from loom.errors import Problem
from loom.util.yaml_file import Kind, Node, fields_of, items_of, one_or_more, pointer, problem_in_text, scalars_of
from loom.workflow import expressions, interpolation, scripts
from loom.workflow import loaded as any_language
from loom.workflow.loaded import Loaded
from loom.workflow.native.inheritance import Entry
from loom.workflow.native.loader import Workflow

E = TypeVar("E", bound=any_language.Entry)

_LOST = re.compile(
    r"(cd|pushd|export|source|\.|alias|unset|set|shopt|umask|ulimit|trap)(\s+|$)|[A-Za-z_][A-Za-z0-9_]*=\S*$"
)
_HANDS_ON = "LOOM_ENV"
_GITHUB = re.compile(r"'[^'\n]*'|\$\{\{(.*?)\}\}", re.DOTALL)


def warnings(
    workflow: Loaded,
    *,
    predefined: Collection[str],
    default_shell: Sequence[str] = AUTO_SHELL,
    pools: Collection[str] = (),
) -> list[Problem]:
    """Return every warning in file order; of another dialect's file the notices of what has no effect.

    `default_shell` is the shell of steps without one; `predefined` are the names that loom sets; `pools` those of the
    user's configuration.
    """
    if not isinstance(workflow, Workflow):
        return list(workflow.notices)
    found = list(_steps(workflow.entries.values(), default_shell))
    found += _unknown_names(workflow, frozenset(predefined), workflow.jobs.values())
    for check in (_templates, _stages, _of_github, _images, _reach):
        found += check(workflow)
    if not pools:
        found += _no_pools(workflow)
    return _in_order(workflow, found)


def of_run(
    workflow: Loaded, jobs: Collection[str], *, defined: Collection[str], default_shell: Sequence[str]
) -> list[Problem]:
    """Return the warnings that change what jobs of these names do in a run; `workflow` is in loom's language."""
    assert isinstance(workflow, Workflow)
    entries = [entry for name, entry in workflow.jobs.items() if name in jobs]
    return _in_order(
        workflow,
        [
            *_steps(entries, default_shell),
            *_unknown_names(workflow, frozenset(defined), entries),
            *_of_github(workflow),
        ],
    )


def _in_order(workflow: Workflow, found: Iterable[Problem]) -> list[Problem]:
    rank = {file.name: number for number, file in enumerate(workflow.files)}
    return sorted(dict.fromkeys(found), key=lambda p: (rank.get(p.file, 0), p.line, p.column, p.code))


def _warn(node: Node, at: str, code: str, message: str) -> Problem:
    return node.file.problem(node, at, message, code=code, severity="warning")


def _steps(entries: Iterable[Entry], default_shell: Sequence[str]) -> Iterator[Problem]:
    for entry, key, number, node in scripts_of(entries):
        if not entry.is_template and scripts.is_posix(entry.fields.get("shell") or default_shell):
            for found in scripts.bashisms(node.text):
                at = pointer(entry.name, key, number)
                message = f"{found.message}; or run the job in bash (`shell: bash`)"
                yield problem_in_text(
                    node, at, message, number=found.number, found=found.text, code="WF_BASHISM", severity="warning"
                )
        below = node.file.line(node.line + 1) or ""
        if node.style == "" and " - " in node.text and re.match(rf"\s{{{node.column - 2},}}- ", below):
            message = "YAML takes this line and the next, indented more, for one command: align the two dashes"
            yield _warn(node, pointer(entry.name, key, number), "WF_STEP_JOINED", message)
        lines = [
            line.strip()
            for line in re.split(r"\n|&&|;", node.text)
            if line.strip() and not line.strip().startswith("#")
        ]
        if (
            entry.fields.get("shared_shell")
            or not lines
            or _HANDS_ON in node.text
            or not all(_LOST.match(line) for line in lines)
        ):
            continue
        word = lines[-1].split()[0]
        advice = "write it in one step with the commands it is for (a step may have several lines)"
        if word == "export" or "=" in word:
            advice = 'use `variables`, or hand it on: echo "NAME=value" >> "$LOOM_ENV"'
        message = f"each step is a fresh shell: {'this variable' if '=' in word else word} ends with it; {advice}"
        yield _warn(node, pointer(entry.name, key, number), "WF_STEP_LOST", message)


def scripts_of(entries: Iterable[E]) -> Iterator[tuple[E, str, int, Node]]:
    """Yield every step with its inherited values: the job, the key, its index, and the text."""
    for entry in entries:
        for key in ("before_script", "script", "after_script"):
            for number, node in enumerate(one_or_more(entry.merged.get(key))):
                if isinstance(node.value, str):
                    yield entry, key, number, node


def _templates(workflow: Workflow) -> Iterator[Problem]:
    used = {name for entry in workflow.entries.values() for name in entry.fields.get("extends", ())}
    for name, entry in workflow.templates.items():
        if name not in used:
            yield _warn(entry.key, pointer(name), "WF_TEMPLATE_UNUSED", f"no job extends {name}; use or remove it")


def _stages(workflow: Workflow) -> Iterator[Problem]:
    filled = {entry.fields["stage"] for entry in workflow.jobs.values()}
    main = workflow.files[-1].root
    for number, stage in enumerate(workflow.stages):
        node = main.find("stages", number) if main is not None else None
        if stage not in filled and node is not None:
            yield _warn(node, pointer("stages", number), "WF_STAGE_EMPTY", f"stage {stage} has no jobs; remove it")


def _unknown_names(workflow: Workflow, predefined: frozenset[str], entries: Iterable[Entry]) -> Iterator[Problem]:
    everywhere = set(workflow.variables) | predefined
    for setting in workflow.rules or ():
        everywhere |= setting.get("variables", {}).keys()
    for node in _conditions(workflow.rules_node):
        yield from _unknown_in_condition(node, everywhere, pointer("workflow", "rules"))
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
            yield from _unknown_in_condition(node, known, pointer(entry.name, "rules"))
        for name, node in fields_of(entry.merged.get("variables")).items():
            yield from _unknown_in_value(entry, name, node, known, secrets)


def _conditions(rules: Node | None) -> Iterator[Node]:
    for rule in items_of(rules):
        condition = rule.get("if")
        if condition is not None and isinstance(condition.value, str):
            yield condition


def _unknown_in_condition(node: Node, known: Collection[str], at: str) -> Iterator[Problem]:
    try:
        expression = expressions.parse(node.value)
    except expressions.ExpressionError:
        return
    for name in dict.fromkeys(expressions.names(expression)):
        if name not in known:
            message = f"${name} is not defined; it is null unless set by --var"
            yield _warn(node, at, "WF_NAME_UNKNOWN", message)


def _unknown_in_value(
    entry: Entry, name: str, node: Node, known: Collection[str], secrets: Collection[str]
) -> Iterator[Problem]:
    if not isinstance(node.value, str) or "$" not in node.value:
        return
    at = pointer(entry.name, "variables", name)
    for other in dict.fromkeys(interpolation.names(node.value)):
        if other in secrets:
            message = f"${other} is a secret, which only steps can read; it is not expanded here"
            yield _warn(node, at, "WF_NAME_UNKNOWN", message)
        elif other.startswith("LOOM_SERVICE_") and entry.fields.get("services"):
            continue  # expanded when the service starts
        elif other not in known:
            message = (
                f"${other} is unknown at planning time and is not expanded; "
                f"set {name} in a step, or write $$ to mean it"
            )
            yield _warn(node, at, "WF_NAME_UNKNOWN", message)


def _of_github(workflow: Workflow) -> Iterator[Problem]:
    """Warn of `${{ }}` in any value: neither a shell nor loom expands it."""
    for file in workflow.files:
        for path, node in scalars_of(file.root) if file.root is not None else ():
            at = pointer(*path)
            for match in _GITHUB.finditer(node.value) if isinstance(node.value, str) and "${{" in node.value else ():
                if match[1] is None:  # quoted: no shell expands it
                    continue
                yield problem_in_text(
                    node,
                    at,
                    f"{match[0]} is GitHub's language; variables are $NAME, conditions are `rules`",
                    number=node.value[: match.start()].count("\n") + 1,
                    found=match[0],
                    code="WF_GITHUB_EXPRESSION",
                    severity="warning",
                )


def _images(workflow: Workflow) -> Iterator[Problem]:
    seen: set[int] = set()
    for entry in workflow.entries.values():
        for at, node in _image_nodes(entry):
            if id(node) in seen or not isinstance(node.value, str) or "$" in node.value or "@" in node.value:
                continue
            seen.add(id(node))
            name = node.value.rsplit("/", 1)[-1]
            if name.endswith(":latest"):
                message = f"{node.value} changes without notice; name a version or a digest"
                yield _warn(node, at, "WF_IMAGE_LATEST", message)
            elif ":" not in name:
                message = f"{node.value} has no tag and means latest; name a version or a digest"
                yield _warn(node, at, "WF_IMAGE_UNPINNED", message)


def _image_nodes(entry: Entry) -> Iterator[tuple[str, Node]]:
    image = entry.merged.get("image")
    if image is not None:
        built = image.get("build") is not None
        name = image.get("name") if image.kind is Kind.MAPPING else image
        if name is not None and not built:
            yield pointer(entry.name, "image"), name
    for number, service in enumerate(items_of(entry.merged.get("services"))):
        written = service.get("image")
        node = (written.get("name") or written) if written is not None else service.get("name") or service
        if written is None or written.get("build") is None:
            yield pointer(entry.name, "services", number), node


def _reach(workflow: Workflow) -> Iterator[Problem]:
    """Warn of jobs that never run by themselves and of unreachable rules."""
    never: set[str] = set()
    for entry in workflow.jobs.values():
        fields = entry.fields
        rules = fields.get("rules", ())
        for number, rule in enumerate(rules[:-1]):
            node = entry.merged.find("rules", number)
            if not rule.keys() & {"if", "changes", "exists"} and node is not None:
                message = "this rule always applies, so the rules after it are never evaluated; put it last"
                yield _warn(node, pointer(entry.name, "rules", number), "WF_RULE_UNREACHABLE", message)
                break
        whens = [rule.get("when", fields.get("when")) for rule in rules or [fields]]
        if all(when == "never" for when in whens):
            never.add(entry.name)
            message = f"{entry.name} never runs unless named; remove it, or change `when`"
            yield _warn(entry.key, pointer(entry.name), "WF_JOB_UNREACHABLE", message)
    for entry in workflow.jobs.values():
        for number, need in enumerate(entry.fields.get("needs", ())):
            node, job = entry.merged.find("needs", number) or entry.key, need["job"]
            if job in never and not need.get("optional") and entry.name not in never:
                message = f"{job} never runs, so {entry.name} can't either; remove the need or make it optional"
                yield _warn(node, pointer(entry.name, "needs", number), "WF_JOB_UNREACHABLE", message)


def _no_pools(workflow: Workflow) -> Iterator[Problem]:
    seen: set[int] = set()
    for entry in workflow.jobs.values():
        pool = entry.merged.get("runner_pool")
        if pool is not None and id(pool) not in seen:
            seen.add(id(pool))
            message = "runner_pool has no effect: your configuration has no `pools`"
            yield _warn(pool, pointer(entry.name, "runner_pool"), "WF_NO_EFFECT", message)
