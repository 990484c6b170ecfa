"""Turn files into a checked `Workflow`: includes, shapes, default and extends, references.

All errors are reported at once, each at its position, in file order. Checks that depend on branch, changes or selection
are left to `resolve`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from loom.errors import Problem
from loom.util.yaml_file import Node, YamlFile, fields_of, items_of, node_at
from loom.workflow import merge
from loom.workflow.facts import Facts
from loom.workflow.languages import NATIVE
from loom.workflow.loaded import LoadedWorkflow, LoadOutcome
from loom.workflow.messages import sort_problems
from loom.workflow.native import references
from loom.workflow.native.files import WorkflowFiles
from loom.workflow.native.inheritance import RULES, Entry, entries_of
from loom.workflow.native.keywords import ROOT_KEYS
from loom.workflow.native.shapes import Fields, Shapes


class Workflow(LoadedWorkflow[Entry]):
    language: ClassVar[str] = "native"

    variables: Mapping[str, str]
    rules: tuple[Fields, ...] | None
    rules_node: Node | None
    default: Node | None


def examine(path: Path, root: Path, facts: Callable[[], Facts] | None = None) -> LoadOutcome:
    """Implement `dialects.Loader`; a file depends on no facts."""
    problems = Shapes()
    files = WorkflowFiles(root, problems)
    name = files.read(path)
    if files.found and not NATIVE.named.search(name) and (foreign := _foreign(files.found[-1])):
        return LoadOutcome(workflow=None, problems=(foreign,), ranks={name: -1})
    workflow = _assemble(name, files.found, problems)
    ranks = {file.name: number for number, file in enumerate(files.found)} | {name: -1}
    return LoadOutcome(workflow=workflow, problems=tuple(sort_problems(problems.found, ranks)), ranks=ranks)


def _foreign(file: YamlFile) -> Problem | None:
    """Return what is told of a file of another program, instead of each key that it has not; None for a workflow."""
    version = node_at(file.root, "version")
    if (
        file.root is None
        or file.root.get("stages") is not None
        or (version is not None and version.text.startswith("v"))
    ):
        return None
    what = "a file of Docker Compose" if file.root.get("services") is not None else "no workflow that loom reads"
    why = "loom's own has `version: v1` and `stages`, GitHub's `jobs`, and in GitLab's a job has `script`"
    return file.problem(file.root, f"this is {what}: {why}", code="WF_SCHEMA_V1")


def _assemble(path: str, files: list[YamlFile], problems: Shapes) -> Workflow | None:
    """Assemble the workflow of these files, the main one last; None when there is none."""
    roots = [file.root for file in files if file.root is not None]
    if not roots:
        return None
    written: dict[str, Entry] = {}
    broken: set[str] = set()
    default: Node | None = None
    variables: dict[str, Node] = {}
    checked: Fields | None = None
    main = roots[-1]
    for root in roots:
        checked = problems.root(root, main=root is main)
        if (own := root.get("default")) is not None and own.is_mapping:
            default = own if default is None else merge.merge(default, own, RULES)
        variables |= fields_of(root, "variables")
        _take_entries(root, written, broken, problems)
    if all(name.startswith(".") for name in written) and not problems.found:
        problems.say(main, "the workflow has no jobs; add a name with `stage` and `script`")
    entries = entries_of(written, broken, default, problems)
    stages = main.get("stages")
    declared = None
    if stages is not None and stages.is_list:
        declared = tuple(node.value for node in items_of(stages) if isinstance(node.value, str))
    there = {name: entries.get(name, own) for name, own in written.items() if own.node.is_mapping}
    references.check(there, entries.keys(), declared, problems)
    return Workflow(
        path=path,
        files=tuple(files),
        stages=(declared or ()) if checked is None else tuple(checked["stages"]),
        variables={name: str(node.value) for name, node in variables.items()},
        variable_nodes=variables,
        rules=None if checked is None or "workflow" not in checked else tuple(checked["workflow"]["rules"]),
        rules_node=main.find("workflow", "rules"),
        entries=entries,
        default=default,
    )


def _take_entries(root: Node, written: dict[str, Entry], broken: set[str], problems: Shapes) -> None:
    for name, node in root.value.items():
        if name in ROOT_KEYS:
            continue
        key = root.keys[name]
        fields = problems.entry(name, key, node)
        if name in written:
            first = written[name].key
            why = f"{name} is also in {first.file.name}:{first.line}; rename one, or use extends"
            problems.say(key, why)
        else:
            written[name] = Entry(name=name, key=key, node=node, merged=node, fields=fields or {})
            if fields is None:
                broken.add(name)
