"""What the reader of every language returns: a checked workflow, whose values are nodes with file, line and column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar

from msgspec import Struct

from loom.errors import Problem
from loom.util.yaml_file import Node, YamlFile
from loom.workflow.messages import in_order

if TYPE_CHECKING:
    from loom.config import Config
    from loom.workflow.gitlab.sources import Sources
    from loom.workflow.gitlab.variables import Variable


class Facts(Protocol):
    """What a language asks about the repository, the event and the user's settings; `plan.model.ResolveContext` has it."""

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
    """One job or template (its name begins with a dot): its own node, and the merged one with all that it inherits."""

    name: str
    key: Node
    node: Node
    merged: Node

    @property
    def is_template(self) -> bool:
        return self.name.startswith(".")


E = TypeVar("E", bound=Entry, covariant=True)


class LoadedOf(Struct, Generic[E], frozen=True, kw_only=True):
    """A checked workflow, of which no rule is decided. Jobs and templates are in file order, included files first."""

    language: ClassVar[str]
    """A name of `languages.LANGUAGES`."""

    path: str
    """Relative to the repository root (absolute when outside)."""
    files: tuple[YamlFile, ...]
    """Included files first."""
    stages: tuple[str, ...]
    entries: Mapping[str, E]
    variable_nodes: Mapping[str, Node]
    """The variables of all jobs."""
    notices: tuple[Problem, ...] = ()
    """What the reader has to say of a sound file, such as keywords without effect."""

    @property
    def jobs(self) -> Mapping[str, E]:
        return {name: entry for name, entry in self.entries.items() if not entry.is_template}

    @property
    def templates(self) -> Mapping[str, E]:
        return {name: entry for name, entry in self.entries.items() if entry.is_template}


Loaded: TypeAlias = LoadedOf[Entry]


class Examined(Struct, frozen=True, kw_only=True):
    """The outcome of loading: every error in order, and the parts that are sound enough for further checks."""

    workflow: Loaded | None
    problems: tuple[Problem, ...]
    ranks: Mapping[str, int]
    """The readable files, in order."""

    def in_order(self, problems: Iterable[Problem]) -> list[Problem]:
        """Return the problems without repetition, sorted by file, line and column."""
        return in_order(problems, self.ranks)
