"""From files to a checked `Workflow`: include, shapes, default and extends, references.

Everything wrong is found in one go, each at its own place, in the order of the files. What can be checked without
knowing the branch, the changes or the selection is checked here; the rest is `resolve`'s.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from loom import yamlfile
from loom.errors import Problem, RequestError, WorkflowError
from loom.expressions import ExpressionError
from loom.graph import CycleError, order
from loom.units import nearest
from loom.workflow import models
from loom.yamlfile import Kind, Node, YamlFile, pointer

TEMPLATES = ".loom/templates"
MAX_FILES = 200
MAX_PROBLEMS = 200
MAX_LEVELS = 32


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One job or template as written: its own node, and the merged one after `default` and `extends`."""

    name: str
    key: Node
    node: Node
    merged: Node
    fields: models.Job

    @property
    def is_template(self) -> bool:
        return self.name.startswith(".")


@dataclass(frozen=True, kw_only=True)
class Workflow:
    """A checked workflow. Jobs and templates as written, in file order (included files first)."""

    path: str
    """Relative to the repository root (or absolute, when it lies outside)."""
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


def load(path: Path, root: Path) -> Workflow:
    """Read, merge and check. RequestError when there is no such file, WorkflowError with every problem otherwise."""
    return _Loader(root).load(path)


@dataclass(kw_only=True)
class _File:
    yaml: YamlFile
    root: Node
    main: bool


@dataclass
class _Loader:
    root: Path
    problems: list[Problem] = field(default_factory=list)
    files: list[_File] = field(default_factory=list)
    seen: dict[Path, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    """Entries with a problem of their own: what depends on them is not judged."""

    def load(self, path: Path) -> Workflow:
        absolute = path if path.is_absolute() else self.root / path
        name = self.label(absolute)
        try:
            yaml = yamlfile.read(absolute, name)
        except FileNotFoundError as error:
            raise RequestError(
                f"{name}: there is no such workflow file",
                hint="Write one (docs/quickstart.md), or name another with --workflow PATH.",
                code="WF_NOT_FOUND",
            ) from error
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise RequestError(f"{name}: the workflow file can't be read: {reason}", code="WF_NOT_FOUND") from error
        self.seen[absolute.resolve()] = name
        self.read(yaml, trail=(name,), main=True)
        workflow = self.assemble(name) if self.files else None
        if self.problems or workflow is None:
            rank = {file.yaml.name: number for number, file in enumerate(self.files)}
            rank[name] = -1
            unique = dict.fromkeys(self.problems)
            ordered = sorted(
                unique, key=lambda problem: (rank.get(problem.file, 0), problem.file, problem.line, problem.column)
            )
            more = len(ordered) - MAX_PROBLEMS
            hint = f"{more} more problems are not shown." if more > 0 else None
            raise WorkflowError(ordered[:MAX_PROBLEMS], hint=hint)
        return workflow

    def label(self, path: Path) -> str:
        absolute = Path(os.path.normpath(path))
        try:
            return str(absolute.relative_to(os.path.normpath(self.root)))
        except ValueError:
            return str(absolute)

    def say(self, node: Node, at: str, message: str, **more: Any) -> None:
        self.problems.append(node.file.problem(node, at, message, **more))

    # -- files -------------------------------------------------------------------------------------------------------

    def read(self, yaml: YamlFile, *, trail: tuple[str, ...], main: bool) -> None:
        """Take in one parsed file, the files it includes first."""
        self.problems += yaml.problems
        if yaml.root is None:
            if not yaml.problems:
                empty = (
                    "the file is empty; a workflow begins with `version: v1`"
                    if main
                    else "the file is empty; remove the include"
                )
                self.problems.append(yaml.problem(None, "/", empty))
            return
        if yaml.root.kind is not Kind.MAPPING:
            if yaml.root.kind is not Kind.REFUSED:
                self.say(
                    yaml.root, "/", f"expected a mapping with version, stages and jobs, found {describe(yaml.root)}"
                )
            return
        include = yaml.root.get("include")
        if include is not None:
            for node in include.value if include.kind is Kind.LIST else [include]:
                self.include(node.get("local") or node, yaml, trail)
        self.files.append(_File(yaml=yaml, root=yaml.root, main=main))

    def include(self, node: Node, yaml: YamlFile, trail: tuple[str, ...]) -> None:
        at = pointer("include")
        if not isinstance(node.value, str):
            return  # the shape is judged with the rest of the file
        folder = (self.root / TEMPLATES).resolve()
        text = node.value.strip()
        if not text.startswith(f"{TEMPLATES}/") or ".." in text.split("/"):
            self.say(node, at, f"expected a file below {TEMPLATES}/, found {text}; move it there")
            return
        if "*" in text or "?" in text:
            paths = sorted(p for p in self.root.glob(text) if p.is_file())
            if not paths:
                self.say(node, at, f"no file matches {text}")
        else:
            paths = [self.root / text]
        for path in paths:
            real = path.resolve()
            name = self.label(path)
            if not real.is_relative_to(folder):
                self.say(
                    node, at, f"{name} leads out of {TEMPLATES}/ through a symbolic link; put the file itself there"
                )
            elif name in trail:
                cycle = " -> ".join((*trail[trail.index(name) :], name))
                self.say(node, at, f"the includes go round in a circle: {cycle}; remove one")
            elif real not in self.seen:
                self.seen[real] = name
                if len(self.seen) > MAX_FILES:
                    self.say(node, at, f"more than {MAX_FILES} files are included")
                    return
                try:
                    included = yamlfile.read(path, name)
                except OSError as error:
                    self.say(
                        node,
                        at,
                        f"{name} can't be read: {(error.strerror or str(error)).lower()}{self.other_file(name)}",
                    )
                    continue
                self.read(included, trail=(*trail, name), main=False)

    def other_file(self, name: str) -> str:
        folder = self.root / TEMPLATES
        known = (
            [self.label(path) for path in folder.rglob("*") if path.suffix in (".yml", ".yaml")][:1000]
            if folder.is_dir()
            else []
        )
        close = nearest(name, known)
        return f"; did you mean {close}?" if close else ""

    # -- shapes ------------------------------------------------------------------------------------------------------

    def assemble(self, path: str) -> Workflow | None:
        main = next((file for file in self.files if file.main), None)
        if main is None:
            return None
        written: dict[str, tuple[Node, Node]] = {}
        shapes: dict[str, models.Job] = {}
        default: Node | None = None
        variables: dict[str, Node] = {}
        root_model: models.Root | None = None
        for file in self.files:
            shape = self.root_shape(file)
            if isinstance(shape, models.Root):
                root_model = shape
            if (own := file.root.get("default")) is not None and own.kind is Kind.MAPPING:
                default = own if default is None else merge(default, own)
            if (own := file.root.get("variables")) is not None and own.kind is Kind.MAPPING:
                variables |= own.value
            for name, node in file.root.value.items():
                if name in models.ROOT_KEYS:
                    continue
                key = file.root.keys[name]
                found = self.entry_shape(name, key, node, file)
                if name in written:
                    first = written[name][0]
                    self.say(
                        key,
                        pointer(name),
                        f"{name} is also in {first.file.name}:{first.line}; rename one, or use extends",
                    )
                else:
                    written[name] = (key, node)
                    if found is None:
                        self.broken.add(name)
                    else:
                        shapes[name] = found
        if not any(not name.startswith(".") for name in written) and not self.problems:
            self.say(main.root, "/", "there is no job; add one: a name with `stage` and `script`")
        entries = self.entries(written, shapes, default)
        stages = main.root.get("stages")
        declared = [node.value for node in stages.value] if stages is not None and stages.kind is Kind.LIST else None
        self.references(entries, written, declared)
        if root_model is None:
            return None
        workflow_node = main.root.get("workflow")
        return Workflow(
            path=path,
            files=tuple(file.yaml for file in self.files),
            stages=tuple(root_model.stages),
            variables={name: str(node.value) for name, node in variables.items()},
            variable_nodes=variables,
            rules=None if root_model.workflow is None else tuple(root_model.workflow.rules),
            rules_node=None if workflow_node is None else workflow_node.get("rules"),
            entries=entries,
            default=default,
        )

    def root_shape(self, file: _File) -> models.Root | models.Included | None:
        model: type[models.Root] | type[models.Included] = models.Root if file.main else models.Included
        only = {key: node for key, node in file.root.value.items() if key in models.ROOT_KEYS and key != "default"}
        node = Node(file.yaml, Kind.MAPPING, only, file.root.line, file.root.column, 1)
        node.keys = file.root.keys
        before = len(self.problems)
        checked = self.validated(model, node, ())
        default = file.root.get("default")
        if default is not None and default.kind is Kind.MAPPING:
            self.validated(models.Common, default, ("default",), partial=True)
        elif default is not None and default.kind is not Kind.REFUSED:
            self.say(
                default, pointer("default"), f"expected a mapping of keys for every job, found {describe(default)}"
            )
        if not file.main:
            for key in ("stages", "workflow"):
                if key in only:
                    self.drop(before, file.root.keys[key])
                    self.say(file.root.keys[key], pointer(key), f"only the main file has {key}; move it there")
        stages = only.get("stages")
        if stages is not None and stages.kind is Kind.LIST:
            self.unique(stages, "stages", "stage")
        for name, value in (only["variables"].value if _is_mapping(only.get("variables")) else {}).items():
            self.reserved(only["variables"].keys[name], name, pointer("variables", name), value)
        return checked  # type: ignore[return-value]

    def drop(self, start: int, node: Node) -> None:
        self.problems[start:] = [p for p in self.problems[start:] if (p.line, p.column) != (node.line, node.column)]

    def unique(self, listed: Node, at: str, word: str) -> None:
        first: dict[Any, Node] = {}
        for number, node in enumerate(listed.value):
            if node.kind is Kind.SCALAR and node.value in first:
                self.say(node, pointer(at, number), f"the {word} {node.value} stands here a second time; keep one")
            elif node.kind is Kind.SCALAR:
                first[node.value] = node

    def reserved(self, key: Node, name: str, at: str, _: Node) -> None:
        if name.startswith("LOOM_"):
            self.say(key, at, f"{name} belongs to loom, which sets LOOM_ variables itself; choose another name")

    def entry_shape(self, name: str, key: Node, node: Node, file: _File) -> models.Job | None:
        at = pointer(name)
        template = name.startswith(".")
        before = len(self.problems)
        if node.kind is Kind.REFUSED:
            return None
        if node.kind is not Kind.MAPPING:
            self.say(key, at, self.no_job(name, node))
            return None
        if not re.fullmatch(models.TEMPLATE if template else models.JOB, name):
            kind = "template" if template else "job"
            rule = "lower-case letters, digits, _ and -, at most 64, and a letter first"
            close = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-")
            meant = f", such as {'.' if template else ''}{close}" if close and close[0].isalpha() else ""
            self.say(key, at, f"{name!r} can't name a {kind}: {rule}{meant}")
        checked = self.validated(models.Job, node, (name,), partial=template)
        variables, secrets = node.get("variables"), node.get("secrets")
        for child in (variables, secrets):
            if child is not None and child.kind is Kind.MAPPING:
                for variable, value in child.value.items():
                    kind = "variables" if child is variables else "secrets"
                    self.reserved(child.keys[variable], variable, pointer(name, kind, variable), value)
        return checked if len(self.problems) == before else None  # type: ignore[return-value]

    def no_job(self, name: str, node: Node) -> str:
        found = describe(node)
        if name in models.DEFAULT_KEYS:
            return f"{name} is not a root key; put it below `default`, or into a job"
        if name in models.JOB_KEYS:
            return f"{name} is not a root key; put it into a job"
        close = nearest(name, models.ROOT_KEYS)
        if close:
            return f"there is no root key {name}; did you mean {close}? (a job would be a mapping, this is {found})"
        return f"expected a job, a mapping with stage and script, found {found}"

    def validated(
        self, model: type[BaseModel], node: Node, at: tuple[str | int, ...], *, partial: bool = False
    ) -> BaseModel | None:
        """The model's view of a node; None after saying what is wrong. `partial`: what is missing may come by a merge."""
        nulls = list(_nulls(node, at))
        for place, null in nulls:
            self.say(null, pointer(*place), "expected a value, found nothing; give one or remove the key")
        try:
            checked = model.model_validate(node.plain())
        except ValidationError as error:
            silent = {id(null) for _, null in nulls}
            details = error.errors(include_url=False, include_context=True)
            if partial:
                details = [detail for detail in details if not _may_come_later(detail)]
            for detail in details:
                self.explain(model, node, at, detail, silent)
            if details or nulls:
                return None
            extends = node.get("extends")
            parents = [] if extends is None else [extends.value] if extends.kind is Kind.SCALAR else extends.plain()
            return models.Job.model_construct(extends=parents)
        return None if nulls else checked

    def explain(
        self, model: type[BaseModel], node: Node, at: tuple[str | int, ...], detail: Any, silent: set[int]
    ) -> None:
        """One of pydantic's errors in loom's words, at its place."""
        kind, location = detail["type"], detail["loc"]
        is_key = bool(location) and location[-1] == "[key]"
        if is_key:
            location = location[:-1]
        found, path = node, list(at)
        key: Node | None = None
        for part in location:
            child = found.get(part)
            if child is None:
                if found.kind is Kind.MAPPING and isinstance(part, int):
                    continue  # the one item of a list that was written without the list
                break
            key = found.key_node(part) if isinstance(part, str) else None
            found = child
            path.append(part)
        if found.kind is Kind.REFUSED or id(found) in silent:
            return
        if kind == "extra_forbidden":
            name = str(location[-1])
            self.say(key or found, pointer(*path), self.unknown_key(model, location, name))
            return
        if kind == "missing":
            name = str(location[-1])
            holder = key or found
            example = {"version": ": write `version: v1`", "stages": ": write `stages: [build, test]`"}.get(name, "")
            self.say(holder, pointer(*path), f"the key {name} is missing{example}")
            return
        offset = 0
        if kind == "value_error" and isinstance(error := detail["ctx"]["error"], ExpressionError):
            offset = error.position
        place = key if is_key and key is not None else found
        self.say(place, pointer(*path), _words(kind, detail, found, place, is_key), offset=offset)

    def unknown_key(self, model: type[BaseModel], location: tuple[str | int, ...], name: str) -> str:
        known = _keys_at(model, location[:-1])
        if (
            model in (models.Root, models.Included)
            and location[0] == "default"
            and len(location) == 2
            and name in models.JOB_KEYS
        ):
            return f"{name} can't be a default; put it into a template and extend that"
        close = nearest(name, known) or _FOREIGN.get(name, "")
        if close.startswith("("):
            return f"there is no key {name} {close}"
        return (
            f"there is no key {name}; did you mean {close}?"
            if close
            else f"there is no key {name}; the keys are {', '.join(known)}"
        )

    # -- merging -----------------------------------------------------------------------------------------------------

    def entries(
        self, written: Mapping[str, tuple[Node, Node]], shapes: Mapping[str, models.Job], default: Node | None
    ) -> dict[str, Entry]:
        """Each entry with what it inherits; entries whose own shape is broken, or that inherit from one, are left out."""
        parents: dict[str, list[str]] = {}
        for name, shape in shapes.items():
            own = written[name][1]
            parents[name] = list(shape.extends or ())
            listed = own.get("extends")
            for number, parent in enumerate(parents[name]):
                if parent not in written:
                    node = (listed.get(number) or listed) if listed is not None else own
                    close = nearest(parent, written)
                    meant = f"; did you mean {close}?" if close else ""
                    self.say(node, pointer(name, "extends"), f"there is no template or job {parent}{meant}")
                    self.broken.add(name)
        try:
            in_order = order(written, parents)
        except CycleError as error:
            own = written[error.cycle[0]][1]
            edges = " -> ".join(error.cycle)
            self.say(
                own.get("extends") or own,
                pointer(error.cycle[0], "extends"),
                f"extends goes round in a circle: {edges}",
            )
            return {}
        bare: dict[str, Node] = {}
        levels: dict[str, int] = {}
        result: dict[str, Entry] = {}
        inheritable = _without(default, ()) if default is not None else None
        for name in in_order:
            if name not in shapes or name in self.broken or any(parent in self.broken for parent in parents[name]):
                self.broken.add(name)
                continue
            own = written[name][1]
            levels[name] = 1 + max((levels[parent] for parent in parents[name]), default=0)
            if levels[name] > MAX_LEVELS:
                self.say(
                    own.get("extends") or own, pointer(name, "extends"), f"extends goes deeper than {MAX_LEVELS} levels"
                )
                self.broken.add(name)
                continue
            inherited: Node | None = None
            for parent in parents[name]:
                inherited = bare[parent] if inherited is None else merge(inherited, bare[parent])
            bare[name] = own if inherited is None else merge(_without(inherited, ("extends",)), own)
            merged = bare[name] if inheritable is None or name.startswith(".") else merge(inheritable, bare[name])
            fields = shapes[name]
            if merged is not own:
                before = len(self.problems)
                again = self.validated(models.Job, merged, (name,), partial=name.startswith("."))
                if again is None:
                    self.broken.add(name)
                    if len(self.problems) == before:
                        raise AssertionError("a merge of good shapes is a bad one, without a word")
                    continue
                assert isinstance(again, models.Job)
                fields = again
            result[name] = Entry(name=name, key=written[name][0], node=own, merged=merged, fields=fields)
        return {name: result[name] for name in written if name in result}

    # -- references --------------------------------------------------------------------------------------------------

    def references(
        self, entries: Mapping[str, Entry], written: Mapping[str, tuple[Node, Node]], stages: list[Any] | None
    ) -> None:
        """What a job names must be there: its stage, its needs, its own required keys."""
        position = {stage: number for number, stage in enumerate(stages or ())}
        jobs = [name for name in written if not name.startswith(".")]
        needs: dict[str, list[str]] = {}
        for name, entry in entries.items():
            fields = entry.fields
            self.stage(entry, position, known=stages is not None)
            if entry.is_template:
                continue
            if fields.script is None:
                self.say(entry.key, pointer(name), "the job has no script; add the commands it runs")
            self.clashes(entry)
            needs[name] = []
            listed = entry.merged.get("needs")
            taken: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
            for number, need in enumerate(fields.needs or ()):
                node = listed.get(number) if listed is not None else None
                node = (node.get("job") or node) if node is not None else entry.key
                at = pointer(name, "needs", number)
                identity = (need.job, tuple(sorted(need.matrix.items())))
                other = written.get(need.job)
                if need.job.startswith("."):
                    self.say(node, at, f"{need.job} is a template and never runs; need a job")
                elif other is None:
                    if need.optional:
                        continue
                    close = nearest(need.job, jobs)
                    meant = f"; did you mean {close}?" if close else ""
                    self.say(node, at, f"there is no job {need.job}{meant}")
                elif identity in taken:
                    self.say(node, at, f"the job {need.job} stands here a second time; keep one")
                else:
                    needs[name].append(need.job)
                    self.matrix_need(need, entries.get(need.job), node, at)
                    needed = entries.get(need.job)
                    if needed is not None and _later(needed.fields.stage, fields.stage, position):
                        self.say(
                            node,
                            at,
                            f"{need.job} is in a later stage ({needed.fields.stage}) than {name} ({fields.stage}); "
                            "need a job of the same or an earlier stage",
                        )
                taken.add(identity)
        try:
            order(jobs, needs)
        except CycleError as error:
            entry = entries[error.cycle[0]]
            edges = " -> ".join(error.cycle)
            node = entry.merged.get("needs") or entry.key
            self.say(node, pointer(entry.name, "needs"), f"needs go round in a circle: {edges}; remove one of them")

    def stage(self, entry: Entry, position: Mapping[Any, int], *, known: bool) -> None:
        stage = entry.fields.stage
        if stage is None:
            if not entry.is_template and known:
                some = ", ".join(str(name) for name in position)
                self.say(entry.key, pointer(entry.name), f"the job has no stage; add `stage:` with one of {some}")
        elif known and stage not in position:
            close = nearest(stage, [name for name in position if isinstance(name, str)])
            meant = f"did you mean {close}?" if close else f"the stages are {', '.join(str(name) for name in position)}"
            node = entry.merged.get("stage") or entry.key
            self.say(node, pointer(entry.name, "stage"), f"there is no stage {stage}; {meant}")

    def clashes(self, entry: Entry) -> None:
        fields = entry.fields
        for name in (fields.secrets or {}).keys() & (fields.variables or {}).keys():
            secrets = entry.merged.get("secrets")
            node = (secrets.key_node(name) if secrets is not None else None) or entry.key
            self.say(node, pointer(entry.name, "secrets", name), f"{name} is a variable of this job too; rename one")
        if fields.user is not None and fields.image is not None and fields.image.user not in (None, fields.user):
            node = entry.merged.get("user") or entry.key
            self.say(node, pointer(entry.name, "user"), f"image.user says {fields.image.user}; keep one of the two")

    def matrix_need(self, need: models.NeedFields, needed: Entry | None, node: Node, at: str) -> None:
        if not need.matrix or needed is None:
            return
        parallel = needed.fields.parallel
        for key, value in need.matrix.items():
            values = [v for row in (parallel.matrix if parallel else None) or () for v in row.get(key, ())]
            if value not in values:
                known = (
                    f"its values are {', '.join(dict.fromkeys(values))}"
                    if values
                    else "its matrix has no such variable"
                )
                self.say(node, at, f"{need.job} has no combination with {key}={value}; {known}")


_FOREIGN = {
    "steps": "script",
    "run": "script",
    "env": "variables",
    "environment": "(it would be a deployment target; there is none in a local run)",
    "tags": "runner_pool",
    "runs-on": "image",
    "container": "image",
    "depends_on": "needs",
    "dependencies": "needs",
    "only": "rules",
    "except": "rules",
    "if": "rules",
    "trigger": "(a job can't start other pipelines)",
    "matrix": "parallel",
    "timeout-minutes": "timeout",
    "continue-on-error": "allow_failure",
    "interruptible": "(every job can be interrupted)",
    "coverage": "(print it in a step instead)",
}
"""Keys of other CI systems, and what does their work here."""


def merge(base: Node, over: Node) -> Node:
    """`over` on top of `base`: mappings key by key, everything else is replaced.

    An image that names `name` or `build` (or is just a name) replaces the inherited image whole: what is known about one
    image is not true of another.
    """
    if base.kind is not Kind.MAPPING or over.kind is not Kind.MAPPING or base is over:
        return over
    merged = Node(over.file, Kind.MAPPING, dict(base.value), over.line, over.column, over.length)
    merged.keys = base.keys | over.keys
    for key, node in over.value.items():
        below = base.value.get(key)
        if below is None or (
            key == "image" and ("name" in node.value or "build" in node.value if node.kind is Kind.MAPPING else True)
        ):
            merged.value[key] = node
        elif key == "image" and below.kind is Kind.SCALAR and node.kind is Kind.MAPPING:
            full = Node(below.file, Kind.MAPPING, {"name": below}, below.line, below.column, below.length)
            full.keys = {"name": below}
            merged.value[key] = merge(full, node)
        else:
            merged.value[key] = merge(below, node)
    return merged


def _without(node: Node, keys: Iterable[str]) -> Node:
    if node.kind is not Kind.MAPPING or not any(key in node.value for key in keys):
        return node
    copy = Node(
        node.file,
        Kind.MAPPING,
        {k: v for k, v in node.value.items() if k not in keys},
        node.line,
        node.column,
        node.length,
    )
    copy.keys = node.keys
    return copy


def _may_come_later(detail: Any) -> bool:
    """Whether an error of a template or of `default` may be none after merging: something is not there yet."""
    return detail["type"] == "missing" or isinstance((detail.get("ctx") or {}).get("error"), models.Incomplete)


def _is_mapping(node: Node | None) -> bool:
    return node is not None and node.kind is Kind.MAPPING


def _later(stage: str | None, than: str | None, position: Mapping[Any, int]) -> bool:
    return stage in position and than in position and position[stage] > position[than]


def _nulls(node: Node, at: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Node]]:
    """Every empty value below a node: none of the language's keys can be without one."""
    pending: list[tuple[tuple[str | int, ...], Node]] = [(at, node)]
    while pending:
        place, current = pending.pop()
        if current.kind is Kind.MAPPING:
            pending += [((*place, key), child) for key, child in current.value.items()]
        elif current.kind is Kind.LIST:
            pending += [((*place, number), child) for number, child in enumerate(current.value)]
        elif current.kind is Kind.SCALAR and current.value is None:
            yield place, current


def describe(node: Node) -> str:
    """What a value is, as a person would say it."""
    if node.kind is Kind.MAPPING:
        return "a mapping"
    if node.kind is Kind.LIST:
        return "a list"
    if node.value is None:
        return "nothing"
    if isinstance(node.value, bool):
        return node.text
    if isinstance(node.value, int | float):
        return f"the number {_short(node.text)}"
    return f"the text {_short(node.text)!r}"


def _short(text: str) -> str:
    line = text.strip().split("\n", 1)[0]
    return line if len(line) <= 40 else line[:37] + "..."


_EXPECTED = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}


def _words(kind: str, detail: Any, found: Node, place: Node, is_key: bool) -> str:
    context = detail.get("ctx") or {}
    error = context.get("error")
    if isinstance(error, models.NotText) or kind == "string_type":
        scalar = found.kind is Kind.SCALAR and not isinstance(found.value, str)
        advice = f'; write it in quotes: "{found.text}"' if scalar else ""
        return f"expected text, found {describe(found)}{advice}"
    if kind in _EXPECTED:
        advice = ""
        if kind == "bool_type" and isinstance(found.value, str) and found.value.lower() in ("yes", "on", "no", "off"):
            advice = f"; write {'true' if found.value.lower() in ('yes', 'on') else 'false'}"
        elif kind == "bool_type" and isinstance(found.value, str) and found.value.lower() in ("true", "false"):
            advice = f"; write {found.value.lower()} without quotes"
        elif kind == "int_type" and isinstance(found.value, str) and found.value.isdecimal():
            advice = f"; write {found.value} without quotes"
        return f"expected {_EXPECTED[kind]}, found {describe(found)}{advice}"
    if kind == "value_error":
        words = str(error)
        return words if "found" in words or not words.startswith("expected") else f"{words}, found {describe(found)}"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", context["expected"])
        close = nearest(found.value, allowed) if isinstance(found.value, str) else None
        meant = f"; did you mean {close}?" if close and len(allowed) > 1 else ""
        choice = f"one of {', '.join(allowed)}" if len(allowed) > 1 else allowed[0]
        return f"expected {choice}, found {describe(found)}{meant}"
    if kind == "string_pattern_mismatch":
        return _pattern_words(context["pattern"], place.text if is_key else str(found.value))
    if kind == "too_short":
        return "expected at least one entry, found none; add one or remove the key"
    limits = {"greater_than_equal": ("at least", "ge"), "less_than_equal": ("at most", "le")}
    if kind in limits:
        word, bound = limits[kind]
        return f"expected a number of {word} {context[bound]}, found {describe(found)}"
    return f"{str(detail['msg']).removeprefix('Value error, ')} (found {describe(found)})"


def _pattern_words(pattern: str, text: str) -> str:
    if pattern == models.VARIABLE:
        close = re.sub(r"[^A-Z0-9_]+", "_", text.upper())
        meant = f", such as {close}" if re.fullmatch(models.VARIABLE, close) else ""
        return f"{text!r} can't name a variable: capital letters, digits and _, no digit first{meant}"
    if pattern == models.STAGE:
        close = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-")
        meant = f", such as {close}" if re.fullmatch(models.STAGE, close) else ""
        return (
            f"{text!r} can't name a stage: lower-case letters, digits, _ and -, at most 32, and a letter first{meant}"
        )
    return f"expected text like {pattern}, found {text!r}"


def _keys_at(model: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    """The keys that the mapping at a location may have."""
    annotation: Any = model
    for part in location:
        annotation = _below(annotation, part)
    found = models.models_in(annotation)
    return [(info.alias or name) for name, info in found[0].model_fields.items()] if found else []


def _below(annotation: Any, part: str | int) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, info in annotation.model_fields.items():
            if part in (name, info.alias):
                return info.annotation
        return None
    if get_origin(annotation) is dict and isinstance(part, str):
        return get_args(annotation)[1]
    if get_origin(annotation) is list and isinstance(part, int):
        return get_args(annotation)[0]
    for argument in get_args(annotation):
        below = _below(argument, part)
        if below is not None:
            return below
    return None
