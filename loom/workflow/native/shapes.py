"""Check the root and the entries of a file, and their values against the table of keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any, ClassVar

from loom.util.units import nearest
from loom.util.yaml_file import Kind, Node, fields_of, items_of
from loom.workflow import shapes, wording
from loom.workflow.keywords import Keyword, Shape
from loom.workflow.native import keywords, values

Fields = Mapping[str, Any]
"""The parsed values of a job, by the names of the table of keys; those that are not written are missing."""
Check = Callable[[Mapping[str, Any], bool], "str | None"]
"""Return the problem in the combination of a mapping's values; the second: whether merging may still add some."""


def _check_probes(ready: Fields, _: bool) -> str | None:
    given = [name for name in PROBES if name in ready]
    return f"expected one probe, found {' and '.join(given)}; keep one" if len(given) > 1 else None


def _check_artifacts(artifacts: Fields, partial: bool) -> str | None:
    kept = artifacts.get("paths") or artifacts.get("untracked") or any(artifacts.get("reports", {}).values())
    return None if kept or partial else "expected paths, untracked or reports; there is nothing to keep"


def _check_matrix(parallel: Fields, partial: bool) -> str | None:
    if ("count" in parallel) == ("matrix" in parallel):
        return None if partial else "expected a number of copies, or matrix with the values to combine"
    total = sum(prod(map(len, row.values())) for row in parallel.get("matrix", ()))
    most = values.MAX_COMBINATIONS
    return f"the matrix has {total} combinations; at most {most} are allowed" if total > most else None


def _check_limits(limit: Fields, partial: bool) -> str | None:
    soft, hard = limit.get("soft", 0), limit.get("hard", -1)
    # The kernel treats -1 as the largest number: no limit.
    return f"the soft limit {soft} is above the hard limit {hard}" if soft % 2**64 > hard % 2**64 else None


PROBES = ("tcp", "command", "http", "log")
CHECKS: Mapping[str, Check] = {
    "services:ready": _check_probes,
    "artifacts": _check_artifacts,
    "parallel": _check_matrix,
    "resources:ulimits:NAME": _check_limits,
}


class Shapes(shapes.Shapes):
    """The mistakes of a workflow, of which those of shapes are found here.

    Values become what they are parsed to, short forms mappings, and single values lists; None where something is wrong.
    """

    parsers: ClassVar[Mapping[str, shapes.Parser]] = {name: kind.parse for name, kind in values.TYPES.items()}
    checks: ClassVar[Mapping[str, Check]] = CHECKS

    def may_lack(self, keyword: Keyword) -> bool:
        return False

    def made(self, node: Node, value: Any, name: str = "", *, sound: bool) -> Any:
        wrong = self.checks[name](value, self.partial) if sound and name in self.checks else None
        if wrong is not None:
            self.say(node, wording.refused(wrong, node))
        return value if sound and wrong is None else None

    def named(self, keyword: Keyword, name: str, node: Node) -> bool:
        try:
            values.TYPES[values.NAMES.get(keyword.name.rpartition(":")[2], "variable")].parse(name)
        except ValueError as error:
            self.say(node, str(error))
            return False
        return True

    def formed(self, value: Any, node: Node, shape: Shape, keyword: Keyword) -> Any:
        may_be_map, items = "map" in shape.kinds, shape.items
        lists_are_short = may_be_map and items is not None and "map" not in items.kinds
        if node.is_mapping and lists_are_short:
            return value
        if node.is_scalar and may_be_map and keyword.short and not lists_are_short:
            value = {keyword.short: value}
        if not node.is_list and items is not None:
            value = [value]
        return {keyword.short: value} if lists_are_short else value

    def root(self, root: Node, *, main: bool) -> Fields | None:
        only = {key: node for key, node in root.value.items() if key in keywords.ROOT_KEYS and key != "default"}
        for key in ("stages", "workflow") if not main else ():
            if only.pop(key, None) is not None:
                why = f"only the main file has {key}; move it there"
                self.say(root.keys[key], why)
        checked = self.validated("root" if main else "included", root.having(only))
        default = root.get("default")
        if default is not None and default.is_mapping:
            self.validated("default", default, partial=True)
        elif default is not None and default.kind is not Kind.REFUSED:
            self.say(default, wording.expected("a mapping of keys for every job", default))
        self._unique(items_of(only.get("stages")), "stage")
        self._reserve(only.get("variables"))
        return checked

    def _unique(self, listed: list[Node], word: str) -> None:
        first: dict[Any, Node] = {}
        for node in listed:
            if node.is_scalar and node.value in first:
                self.say(node, f"the {word} {node.value} is a duplicate; keep one")
            elif node.is_scalar:
                first[node.value] = node

    def _reserve(self, variables: Node | None) -> None:
        for name in fields_of(variables):
            if variables is not None and name.upper().startswith("LOOM_"):  # lower-case ones belong to the driver
                why = f"{name} is reserved: loom sets {name[:5]} variables; choose another name"
                self.say(variables.keys[name], why)

    def entry(self, name: str, key: Node, node: Node) -> Fields | None:
        template = name.startswith(".")
        before = len(self.found)
        if node.kind is Kind.REFUSED:
            return None
        if not node.is_mapping or (name == "jobs" and node.get("script") is None):
            self.say(key, self._root_key_hint(name, node))
            return None
        try:
            values.TYPES["template" if template else "job"].parse(name)
        except ValueError as error:
            self.say(key, str(error))
        checked = self.validated("job", node, partial=template)
        self._reserve(node.get("variables"))
        self._reserve(node.get("secrets"))
        return checked if len(self.found) == before else None

    def _root_key_hint(self, name: str, node: Node) -> str:
        found = wording.describe(node)
        if name in keywords.DEFAULT_KEYS:
            return f"{name} is not a root key; put it below `default`, or into a job"
        if name == "jobs":
            return "each job is a root key of this language, a mapping with stage and script: there is no `jobs`"
        if name in keywords.JOB_KEYS and f"{name}s" not in keywords.ROOT_KEYS:
            return f"{name} is not a root key; put it into a job"
        if close := nearest(name, keywords.ROOT_KEYS):
            return f"unknown root key {name}; did you mean {close}? (a job would be a mapping, this is {found})"
        return f"expected a job, a mapping with stage and script, found {found}"

    def validated(self, table: str, node: Node, *, partial: bool = False) -> Fields | None:
        """Return the values of a mapping; None after reporting errors. `partial`: merging may add missing keys."""
        self.partial = partial
        found: Fields | None = self.fields(node, "", keywords.TABLES[table])
        return found

    def unknown(self, node: Node, name: str, known: Mapping[str, Keyword]) -> None:
        if known is keywords.TABLES["default"][""] and name in keywords.JOB_KEYS:
            self.say(node, f"{name} can't be a default; put it into a template and extend that")
        else:
            super().unknown(node, name, known)
