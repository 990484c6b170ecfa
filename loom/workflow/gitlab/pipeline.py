"""A checked `.gitlab-ci.yml`: files merged, references and `extends` resolved, nothing decided about rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from loom.config import Config
from loom.errors import Problem
from loom.util.yaml_file import Node, YamlFile, fields_of
from loom.workflow.gitlab.sources import Sources

if TYPE_CHECKING:
    from loom.workflow.gitlab.variables import Variable


class Facts(Protocol):
    """What the dialect asks about the repository, the event and the user's settings; `plan.model.ResolveContext` has it."""

    @property
    def config(self) -> Config: ...

    @property
    def predefined(self) -> Mapping[str, str]:
        """The `CI_*` variables of the whole pipeline."""

    @property
    def given(self) -> Mapping[str, str]:
        """The variables of `--var`."""

    @property
    def inputs(self) -> Mapping[str, str]:
        """The inputs of the main file, as text."""

    @property
    def typed_inputs(self) -> Mapping[str, Any]:
        """Those that a parent pipeline gives."""

    @property
    def changed(self) -> Callable[[str | None], Iterable[str] | None]: ...

    @property
    def own_variables(self) -> Callable[[], Mapping[str, Variable]]:
        """The variables that the project has on the server."""

    @property
    def changes_base(self) -> str | None:
        """The commit that `--changes-base` names; `changed(None)` compares with it."""

    @property
    def files(self) -> Callable[[], Iterable[str]]: ...

    @property
    def sources(self) -> Callable[[], Sources | None]:
        """Where files of other places come from; None: nowhere."""


class Entry(Struct, frozen=True, kw_only=True):
    """One job or hidden job: its own value, and the merged one after `extends`, `default` and `inherit`."""

    name: str
    key: Node
    node: Node
    merged: Node

    @property
    def is_template(self) -> bool:
        return self.name.startswith(".")

    @property
    def stage(self) -> str:
        stage = self.merged.get("stage")
        return stage.value if stage is not None and isinstance(stage.value, str) else "test"


class Pipeline(Struct, frozen=True, kw_only=True):
    """The whole file. Values are nodes with file, line and column; their shapes are checked."""

    path: str
    """Relative to the repository root (absolute when outside)."""
    files: tuple[YamlFile, ...]
    """Included files first."""
    root: Node
    """The merged root mapping."""
    stages: tuple[str, ...]
    """With `.pre` and `.post`."""
    entries: Mapping[str, Entry]
    notices: tuple[Problem, ...] = ()
    """One for each keyword that has no effect here."""

    @property
    def jobs(self) -> Mapping[str, Entry]:
        return {name: entry for name, entry in self.entries.items() if not entry.is_template}

    @property
    def variable_nodes(self) -> Mapping[str, Node]:
        return fields_of(self.root.get("variables"))

    @property
    def templates(self) -> Mapping[str, Entry]:
        return {name: entry for name, entry in self.entries.items() if entry.is_template}
