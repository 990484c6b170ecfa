"""Turn files into a checked `Workflow`: includes, shapes, default and extends, references.

All errors are reported at once, each at its place, in file order. Checks that depend on branch, changes or selection
are left to `resolve`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from loom.errors import Problem
from loom.util.yaml_file import Kind, Node, YamlFile, items_of, pointer
from loom.workflow import merge, models
from loom.workflow.files import File, WorkflowFiles
from loom.workflow.inheritance import Entry, Inheritance, Written
from loom.workflow.messages import Problems, Suggestions, in_order, refused
from loom.workflow.references import EntryView, References
from loom.workflow.shapes import Shapes


class Workflow(Struct, frozen=True, kw_only=True):
    """A checked workflow. Unmerged jobs and templates, in file order (included files first)."""

    path: str
    """Relative to the repository root (absolute when outside)."""
    files: tuple[YamlFile, ...]
    stages: tuple[str, ...]
    variables: Mapping[str, str]
    variable_nodes: Mapping[str, Node]
    rules: tuple[models.WorkflowRule, ...] | None
    rules_node: Node | None
    entries: Mapping[str, Entry]
    default: Node | None

    @property
    def jobs(self) -> Mapping[str, Entry]:
        return {name: entry for name, entry in self.entries.items() if not entry.is_template}

    @property
    def templates(self) -> Mapping[str, Entry]:
        return {name: entry for name, entry in self.entries.items() if entry.is_template}


class Examined(Struct, frozen=True, kw_only=True):
    """The outcome of loading: every error in order, and the parts that are sound enough for further checks."""

    workflow: Workflow | None
    problems: tuple[Problem, ...]
    ranks: Mapping[str, int]
    """The readable files, in order."""

    def in_order(self, problems: Iterable[Problem]) -> list[Problem]:
        return in_order(problems, self.ranks)


def load(path: Path, root: Path) -> Workflow:
    """Read, merge and check. RequestError for a missing file, WorkflowError with every problem otherwise."""
    examined = examine(path, root)
    if examined.problems or examined.workflow is None:
        raise refused(examined.problems)
    return examined.workflow


def examine(path: Path, root: Path) -> Examined:
    """Load and return all findings instead of raising WorkflowError; RequestError is still raised."""
    problems = Problems()
    files = WorkflowFiles(root, problems)
    name = files.read(path)
    workflow = _assemble(name, files.found, problems)
    ranks = {file.yaml.name: number for number, file in enumerate(files.found)} | {name: -1}
    examined = Examined(workflow=workflow, problems=(), ranks=ranks)
    return replace(examined, problems=tuple(examined.in_order(problems.found)))


def _assemble(path: str, files: list[File], problems: Problems) -> Workflow | None:
    """None when the main file can't be read."""
    if not any(file.main for file in files):
        return None
    shapes, suggest = Shapes(problems, nulls=any(file.yaml.has_nulls for file in files)), Suggestions()
    written: dict[str, Written] = {}
    default: Node | None = None
    variables: dict[str, Node] = {}
    root: models.Root | None = None
    main = files[-1].root
    for file in files:
        shape = shapes.root(file)
        if isinstance(shape, models.Root):
            root = shape
        if (own := _mapping(file.root, "default")) is not None:
            default = own if default is None else merge.merge(default, own)
        if (own := _mapping(file.root, "variables")) is not None:
            variables |= own.value
        _take_entries(file.root, written, shapes, problems)
    if all(name.startswith(".") for name in written) and not problems.found:
        problems.say(main, "/", "the workflow has no jobs; add a name with `stage` and `script`")
    entries = Inheritance(written, default, shapes, problems, suggest).entries()
    stages = main.get("stages")
    declared = None
    if stages is not None and stages.kind is Kind.LIST:
        declared = tuple(node.value for node in items_of(stages) if isinstance(node.value, str))
    problems.found += References(_views(written, entries), declared, suggest).check()
    return Workflow(
        path=path,
        files=tuple(file.yaml for file in files),
        stages=(declared or ()) if root is None else tuple(root.stages),
        variables={name: str(node.value) for name, node in variables.items()},
        variable_nodes=variables,
        rules=None if root is None or root.workflow is None else tuple(root.workflow.rules),
        rules_node=main.find("workflow", "rules"),
        entries=entries,
        default=default,
    )


def _mapping(root: Node, key: str) -> Node | None:
    node = root.get(key)
    return node if node is not None and node.kind is Kind.MAPPING else None


def _take_entries(root: Node, written: dict[str, Written], shapes: Shapes, problems: Problems) -> None:
    for name, node in root.value.items():
        if name in models.ROOT_KEYS:
            continue
        key = root.keys[name]
        fields = shapes.entry(name, key, node)
        if name in written:
            first = written[name].key
            why = f"{name} is also in {first.file.name}:{first.line}; rename one, or use extends"
            problems.say(key, pointer(name), why)
        else:
            written[name] = Written(key=key, node=node, fields=fields)


def _views(written: Mapping[str, Written], entries: Mapping[str, Entry]) -> dict[str, EntryView]:
    views = {}
    for name, own in written.items():
        if own.node.kind is Kind.MAPPING:
            entry = entries.get(name)
            node, fields = (entry.merged, entry.fields) if entry is not None else (own.node, None)
            views[name] = EntryView(name=name, key=own.key, node=node, fields=fields)
    return views
