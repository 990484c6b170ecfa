"""Check the shape of workflow nodes with pydantic; translate its errors to loom's messages at their places."""

from __future__ import annotations

import re
from typing import Any

from msgspec.structs import replace
from pydantic import BaseModel, ValidationError

from loom.util.units import nearest
from loom.util.yaml_file import Kind, Node, fields_of, items_of, pointer, scalars_of
from loom.workflow.expressions import ExpressionError
from loom.workflow.messages import Problems
from loom.workflow.native import models, values, wording
from loom.workflow.native.files import File


class Shapes:
    def __init__(self, problems: Problems, *, nulls: bool) -> None:
        self._problems = problems
        self._look_for_nulls = nulls

    def root(self, file: File) -> models.Root | models.Included | None:
        model: type[models.Root] | type[models.Included] = models.Root if file.main else models.Included
        only = {key: node for key, node in file.root.value.items() if key in models.ROOT_KEYS and key != "default"}
        node = Node(file.yaml, Kind.MAPPING, only, file.root.line, file.root.column, 1)
        node.keys = file.root.keys
        before = len(self._problems.found)
        checked = self.validated(model, node, ())
        default = file.root.get("default")
        if default is not None and default.kind is Kind.MAPPING:
            self.validated(models.Common, default, ("default",), partial=True)
        elif default is not None and default.kind is not Kind.REFUSED:
            self._problems.say(
                default,
                pointer("default"),
                f"expected a mapping of keys for every job, found {wording.describe(default)}",
            )
        if not file.main:
            for key in ("stages", "workflow"):
                if key in only:
                    self._drop(before, file.root.keys[key])
                    self._problems.say(
                        file.root.keys[key], pointer(key), f"only the main file has {key}; move it there"
                    )
        self._unique(items_of(only.get("stages")), "stages", "stage")
        self._reserve(only.get("variables"), "variables")
        return checked  # type: ignore[return-value]

    def _drop(self, start: int, node: Node) -> None:
        self._problems.found[start:] = [
            p for p in self._problems.found[start:] if (p.line, p.column) != (node.line, node.column)
        ]

    def _unique(self, listed: list[Node], at: str, word: str) -> None:
        first: dict[Any, Node] = {}
        for number, node in enumerate(listed):
            if node.kind is Kind.SCALAR and node.value in first:
                self._problems.say(node, pointer(at, number), f"the {word} {node.value} is a duplicate; keep one")
            elif node.kind is Kind.SCALAR:
                first[node.value] = node

    def _reserve(self, variables: Node | None, *at: str) -> None:
        for name in fields_of(variables):
            if variables is not None and name.upper().startswith("LOOM_"):  # lower-case ones belong to the driver
                why = f"{name} is reserved: loom sets {name[:5]} variables; choose another name"
                self._problems.say(variables.keys[name], pointer(*at, name), why)

    def entry(self, name: str, key: Node, node: Node) -> models.Job | None:
        at = pointer(name)
        template = name.startswith(".")
        before = len(self._problems.found)
        if node.kind is Kind.REFUSED:
            return None
        if node.kind is not Kind.MAPPING:
            self._problems.say(key, at, self._no_job(name, node))
            return None
        if not re.fullmatch(values.TEMPLATE if template else values.JOB, name):
            kind = "template" if template else "job"
            rule = "lower-case letters, digits, _ and -, at most 64, and a letter first"
            close = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-")
            meant = f", such as {'.' if template else ''}{close}" if close and close[0].isalpha() else ""
            self._problems.say(key, at, f"{name!r} is not a valid {kind} name: {rule}{meant}")
        checked = self.validated(models.Job, node, (name,), partial=template)
        self._reserve(node.get("variables"), name, "variables")
        self._reserve(node.get("secrets"), name, "secrets")
        return checked if len(self._problems.found) == before else None  # type: ignore[return-value]

    def _no_job(self, name: str, node: Node) -> str:
        found = wording.describe(node)
        if name in models.DEFAULT_KEYS:
            return f"{name} is not a root key; put it below `default`, or into a job"
        if name in models.JOB_KEYS and f"{name}s" not in models.ROOT_KEYS:
            return f"{name} is not a root key; put it into a job"
        close = (
            wording.FOREIGN.get(name)
            if wording.FOREIGN.get(name) in models.ROOT_KEYS
            else nearest(name, models.ROOT_KEYS)
        )
        if close:
            return f"unknown root key {name}; did you mean {close}? (a job would be a mapping, this is {found})"
        return f"expected a job, a mapping with stage and script, found {found}"

    def validated(
        self, model: type[BaseModel], node: Node, at: tuple[str | int, ...], *, partial: bool = False
    ) -> BaseModel | None:
        """Validate a node; None after reporting errors. `partial`: merging may add missing keys."""
        nulls = []
        if self._look_for_nulls:  # all keys need a value
            nulls = [(place, scalar) for place, scalar in scalars_of(node, at) if scalar.value is None]
        for place, null in nulls:
            self._problems.say(null, pointer(*place), "expected a value, found nothing; give one or remove the key")
        try:
            checked = model.model_validate(node.plain())
        except ValidationError as error:
            silent = {id(null) for _, null in nulls}
            details = error.errors(include_url=False, include_context=True)
            if partial:
                details = [detail for detail in details if not _may_come_later(detail)]
            for detail in details:
                self._explain(model, node, at, detail, silent)
            if details or nulls:
                return None
            extends = node.get("extends")
            parents = [] if extends is None else [extends.value] if extends.kind is Kind.SCALAR else extends.plain()
            return models.Job.model_construct(extends=parents)
        return None if nulls else checked

    def _explain(
        self, model: type[BaseModel], node: Node, at: tuple[str | int, ...], detail: Any, silent: set[int]
    ) -> None:
        """Translate one pydantic error to a message at its place."""
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
            self._problems.say(key or found, pointer(*path), wording.unknown_key(model, location, name))
            return
        if kind == "missing":
            name = str(location[-1])
            holder = key or found
            example = {"version": ": write `version: v1`", "stages": ": write `stages: [build, test]`"}.get(name, "")
            self._problems.say(holder, pointer(*path), f"the key {name} is missing{example}")
            return
        offset = 0
        if kind == "value_error" and isinstance(error := detail["ctx"]["error"], ExpressionError):
            offset = error.position
        place = key if is_key and key is not None else found
        problem = place.file.problem(
            place, pointer(*path), wording.words(kind, detail, found, place, is_key), offset=offset
        )
        if wording.may_be_secret(detail):
            problem = replace(problem, source_line=None)
        self._problems.found.append(problem)


def _may_come_later(detail: Any) -> bool:
    """Whether merging may resolve an error of a template or of `default`: a required key is missing."""
    return detail["type"] == "missing" or isinstance((detail.get("ctx") or {}).get("error"), values.Incomplete)
