"""Apply inheritance: `default`, and templates and jobs by `extends`."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from loom.util.toposort import CycleError, order
from loom.util.yaml_file import Node, pointer
from loom.workflow import merge, models
from loom.workflow.messages import Problems, Suggestions
from loom.workflow.shapes import Shapes

MAX_LEVELS = 32


class Entry(Struct, frozen=True, kw_only=True):
    """One job or template: its own node, and the merged one after `default` and `extends`."""

    name: str
    key: Node
    node: Node
    merged: Node
    fields: models.Job

    @property
    def is_template(self) -> bool:
        return self.name.startswith(".")


class Written(Struct, frozen=True, kw_only=True):
    """An entry as its file defines it. `fields` is None when its shape is invalid."""

    key: Node
    node: Node
    fields: models.Job | None


class Inheritance:
    def __init__(
        self,
        written: Mapping[str, Written],
        default: Node | None,
        shapes: Shapes,
        problems: Problems,
        suggest: Suggestions,
    ) -> None:
        self._written = written
        self._default = merge.without(default, ()) if default is not None else None
        self._shapes = shapes
        self._problems = problems
        self._suggest = suggest
        self._broken = {name for name, entry in written.items() if entry.fields is None}
        """Entries that depend on invalid ones are not checked."""
        self._bare: dict[str, Node] = {}
        """Entries merged with their `extends`, without `default`."""
        self._levels: dict[str, int] = {}

    def entries(self) -> dict[str, Entry]:
        """Return each entry with its inherited values; entries with an invalid shape or an invalid parent are missing."""
        parents = self._parents()
        try:
            in_order = order(self._written, parents)
        except CycleError as error:
            own = self._written[error.cycle[0]].node
            why = f"extends forms a cycle: {' -> '.join(error.cycle)}"
            self._problems.say(own.get("extends") or own, pointer(error.cycle[0], "extends"), why)
            return {}
        result: dict[str, Entry] = {}
        for name in in_order:
            entry = self._entry(name, parents.get(name, []))
            if entry is None:
                self._broken.add(name)
            else:
                result[name] = entry
        return {name: result[name] for name in self._written if name in result}

    def _parents(self) -> dict[str, list[str]]:
        parents: dict[str, list[str]] = {}
        for name, entry in self._written.items():
            if entry.fields is None:
                continue
            parents[name] = list(entry.fields.extends or ())
            listed = entry.node.get("extends")
            for number, parent in enumerate(parents[name]):
                if parent not in self._written:
                    node = (listed.get(number) or listed) if listed is not None else entry.node
                    close = self._suggest(parent, self._written)
                    meant = f"; did you mean {close}?" if close else ""
                    self._problems.say(node, pointer(name, "extends"), f"unknown template or job {parent}{meant}")
                    self._broken.add(name)
        return parents

    def _entry(self, name: str, parents: list[str]) -> Entry | None:
        key, own, fields = self._written[name].key, self._written[name].node, self._written[name].fields
        if fields is None or name in self._broken or not self._broken.isdisjoint(parents):
            return None
        self._levels[name] = 1 + max((self._levels[parent] for parent in parents), default=0)
        if self._levels[name] > MAX_LEVELS:
            why = f"extends goes deeper than {MAX_LEVELS} levels"
            self._problems.say(own.get("extends") or own, pointer(name, "extends"), why)
            return None
        merged = own
        if parents:
            inherited = self._bare[parents[0]]
            for parent in parents[1:]:
                inherited = merge.merge(inherited, self._bare[parent])
            merged = merge.merge(merge.without(inherited, ("extends",)), own)
        self._bare[name] = merged
        if self._default is not None and not name.startswith("."):
            merged = merge.merge(self._default, merged)
        if merged is not own:
            before = len(self._problems.found)
            again = self._shapes.validated(models.Job, merged, (name,), partial=name.startswith("."))
            if again is None:
                if len(self._problems.found) == before:
                    raise AssertionError("a merge of good shapes is a bad one, without a word")
                return None
            assert isinstance(again, models.Job)
            fields = again
        return Entry(name=name, key=key, node=own, merged=merged, fields=fields)
