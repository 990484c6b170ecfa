"""From files to a checked `Workflow`: include, shapes, default and extends, references.

Everything wrong is found in one go, each at its own place, in the order of the files. What can be checked without
knowing the branch, the changes or the selection is checked here; the rest is `resolve`'s.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace
from pydantic import BaseModel, ValidationError

from loom.errors import Problem, RequestError, WorkflowError
from loom.util import globs, yaml_file
from loom.util.toposort import CycleError, order
from loom.util.units import nearest
from loom.util.yaml_file import Kind, Node, YamlFile, pointer
from loom.workflow import merge, messages, models
from loom.workflow.expressions import ExpressionError
from loom.workflow.references import References, View

TEMPLATES = ".loom/templates"
MAX_FILES = 200
MAX_PROBLEMS = 200
MAX_LEVELS = 32
FIRST_ONE = """\
Write one, or name another file with --workflow PATH. The smallest:
    version: v1
    stages: [test]
    hello:
      stage: test
      image: debian:trixie-slim
      script:
        - echo hello"""


class Entry(Struct, frozen=True, kw_only=True):
    """One job or template as written: its own node, and the merged one after `default` and `extends`."""

    name: str
    key: Node
    node: Node
    merged: Node
    fields: models.Job

    @property
    def is_template(self) -> bool:
        return self.name.startswith(".")


class Workflow(Struct, frozen=True, kw_only=True):
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


class Examined(Struct, frozen=True, kw_only=True):
    """What became of a file: everything wrong with it, in order, and what of it is sound enough to be judged further."""

    workflow: Workflow | None
    problems: tuple[Problem, ...]
    ranks: Mapping[str, int]
    """The files in their order, as far as they could be read."""

    def in_order(self, problems: Iterable[Problem]) -> list[Problem]:
        """Each once, by file, line and column."""
        unique = dict.fromkeys(problems)
        return sorted(unique, key=lambda one: (self.ranks.get(one.file, 0), one.file, one.line, one.column))


def load(path: Path, root: Path) -> Workflow:
    """Read, merge and check. RequestError when there is no such file, WorkflowError with every problem otherwise."""
    examined = examine(path, root)
    if examined.problems or examined.workflow is None:
        more = len(examined.problems) - MAX_PROBLEMS
        hint = f"{more} more problems are not shown." if more > 0 else None
        raise WorkflowError(examined.problems[:MAX_PROBLEMS], hint=hint)
    return examined.workflow


def examine(path: Path, root: Path) -> Examined:
    """The same for who wants to know more than that it is wrong: nothing but RequestError is raised."""
    return _Loader(root).examine(path)


class _File(Struct, kw_only=True):
    yaml: YamlFile
    root: Node
    main: bool


class _Loader(Struct):
    root: Path
    problems: list[Problem] = field(default_factory=list)
    files: list[_File] = field(default_factory=list)
    seen: dict[Path, str] = field(default_factory=dict)
    suggest: messages.Suggestions = field(default_factory=messages.Suggestions)
    broken: set[str] = field(default_factory=set)
    """Entries with a problem of their own: what depends on them is not judged."""

    def examine(self, path: Path) -> Examined:
        absolute = path if path.is_absolute() else self.root / path
        name = self.label(absolute)
        try:
            yaml = yaml_file.read(absolute, name)
        except FileNotFoundError as error:
            other = absolute.with_suffix(".yaml")
            raise RequestError(
                f"{name}: there is no such workflow file",
                hint=f"There is {self.label(other)}; rename it."
                if other.exists()
                else FIRST_ONE + messages.of_others(self.root)
                if name == ".loom/workflow.yml"
                else "Is it the right path? It starts where the command does.",
                code="WF_NOT_FOUND",
            ) from error
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise RequestError(f"{name}: the workflow file can't be read: {reason}", code="WF_NOT_FOUND") from error
        self.seen[absolute.resolve()] = name
        self.read(yaml, trail=(name,), main=True)
        workflow = self.assemble(name) if self.files else None
        ranks = {file.yaml.name: number for number, file in enumerate(self.files)}
        ranks[name] = -1
        examined = Examined(workflow=workflow, problems=(), ranks=ranks)
        return replace(examined, problems=tuple(examined.in_order(self.problems)))

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
                    yaml.root,
                    "/",
                    f"expected a mapping with version, stages and jobs, found {messages.describe(yaml.root)}",
                )
            return
        if main and (foreign := messages.foreign_file(yaml.root, yaml.name)):
            self.say(yaml.root, "/", foreign)
            return
        include = yaml.root.get("include")
        if include is not None:
            for number, node in enumerate(include.value if include.kind is Kind.LIST else [include]):
                local = node.get("local")
                if local is not None:
                    self.include(local, pointer("include", number, "local"), trail)
        self.files.append(_File(yaml=yaml, root=yaml.root, main=main))

    def include(self, node: Node, at: str, trail: tuple[str, ...]) -> None:
        if not isinstance(node.value, str):
            return  # the shape is judged with the rest of the file
        folder = (self.root / TEMPLATES).resolve()
        text = node.value.strip()
        if text.startswith(("/", "~")) or ".." in text.split("/"):
            return  # said with the shape
        if not text.startswith(f"{TEMPLATES}/"):
            self.say(node, at, f"expected a file below {TEMPLATES}/, found {text}; move it there")
            return
        if "*" in text or "?" in text:
            paths = sorted(
                path
                for path in (self.root / TEMPLATES).rglob("*")
                if globs.matches(text, str(path.relative_to(self.root))) and path.is_file()
            )
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
                    included = yaml_file.read(path, name)
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
                default = own if default is None else merge.merge(default, own)
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
        declared = None
        if stages is not None and stages.kind is Kind.LIST:
            declared = tuple(node.value for node in stages.value if isinstance(node.value, str))
        views = {
            name: View(
                name=name,
                key=key,
                node=entries[name].merged if name in entries else node,
                fields=entries[name].fields if name in entries else None,
            )
            for name, (key, node) in written.items()
            if node.kind is Kind.MAPPING
        }
        self.problems += References(views, declared, self.suggest).check()
        workflow_node = main.root.get("workflow")
        return Workflow(
            path=path,
            files=tuple(file.yaml for file in self.files),
            stages=(declared or ()) if root_model is None else tuple(root_model.stages),
            variables={name: str(node.value) for name, node in variables.items()},
            variable_nodes=variables,
            rules=None if root_model is None or root_model.workflow is None else tuple(root_model.workflow.rules),
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
                default,
                pointer("default"),
                f"expected a mapping of keys for every job, found {messages.describe(default)}",
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
        if name.upper().startswith("LOOM_"):  # in lower case they are the driver's
            self.say(key, at, f"{name} belongs to loom, which sets {name[:5]} variables itself; choose another name")

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
        found = messages.describe(node)
        if name in models.DEFAULT_KEYS:
            return f"{name} is not a root key; put it below `default`, or into a job"
        if name in models.JOB_KEYS and f"{name}s" not in models.ROOT_KEYS:
            return f"{name} is not a root key; put it into a job"
        close = (
            messages.FOREIGN.get(name)
            if messages.FOREIGN.get(name) in models.ROOT_KEYS
            else nearest(name, models.ROOT_KEYS)
        )
        if close:
            return f"there is no root key {name}; did you mean {close}? (a job would be a mapping, this is {found})"
        return f"expected a job, a mapping with stage and script, found {found}"

    def validated(
        self, model: type[BaseModel], node: Node, at: tuple[str | int, ...], *, partial: bool = False
    ) -> BaseModel | None:
        """The model's view of a node; None after saying what is wrong. `partial`: what is missing may come by a merge."""
        nulls = list(_nulls(node, at)) if any(file.yaml.has_nulls for file in self.files) else []
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
                if found.kind is (Kind.MAPPING if isinstance(part, int) else Kind.LIST):
                    continue  # a short form: an item without its list, or a list without its mapping
                break
            key = found.key_node(part) if isinstance(part, str) else None
            found = child
            path.append(part)
        if found.kind is Kind.REFUSED or id(found) in silent:
            return
        if kind == "extra_forbidden":
            name = str(location[-1])
            self.say(key or found, pointer(*path), messages.unknown_key(model, location, name))
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
        problem = place.file.problem(
            place, pointer(*path), messages.words(kind, detail, found, place, is_key), offset=offset
        )
        if messages.may_be_secret(detail):
            problem = replace(problem, source_line=None)
        self.problems.append(problem)

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
                    close = self.suggest(parent, written)
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
        inheritable = merge.without(default, ()) if default is not None else None
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
                inherited = bare[parent] if inherited is None else merge.merge(inherited, bare[parent])
            bare[name] = own if inherited is None else merge.merge(merge.without(inherited, ("extends",)), own)
            merged = bare[name] if inheritable is None or name.startswith(".") else merge.merge(inheritable, bare[name])
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


def _may_come_later(detail: Any) -> bool:
    """Whether an error of a template or of `default` may be none after merging: something is not there yet."""
    return detail["type"] == "missing" or isinstance((detail.get("ctx") or {}).get("error"), models.Incomplete)


def _is_mapping(node: Node | None) -> bool:
    return node is not None and node.kind is Kind.MAPPING


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
