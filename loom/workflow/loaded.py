"""The result of the reader of every language: a checked workflow, whose values are nodes with file, line and column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar, Generic, TypeAlias, TypeVar

from loom.errors import Problem, RequestError, reason_of
from loom.util import yaml_file
from loom.util.paths import name_from
from loom.util.yaml_file import Node, YamlFile
from loom.values import Immutable
from loom.workflow.messages import sort_problems


class Entry(Immutable):
    """One job or template (its name begins with a dot): its own node, and the merged one with all that it inherits."""

    name: str
    key: Node
    node: Node
    merged: Node

    @property
    def is_template(self) -> bool:
        return self.name.startswith(".")


E = TypeVar("E", bound=Entry, covariant=True)


class LoadedWorkflow(Immutable, Generic[E]):
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
    notices: tuple[Problem, ...] = ()
    """The reader's remarks on a valid file, such as keywords without effect."""

    @property
    def jobs(self) -> Mapping[str, E]:
        return {name: entry for name, entry in self.entries.items() if not entry.is_template}

    def entry_of(self, job: str) -> E | None:
        """Return the workflow's entry for a job of the plan, by the job's name."""
        return self.jobs.get(job)

    @property
    def templates(self) -> Mapping[str, E]:
        return {name: entry for name, entry in self.entries.items() if entry.is_template}


Loaded: TypeAlias = LoadedWorkflow[Entry]


class LoadOutcome(Immutable):
    """The outcome of loading: every error in order, and the parts that are sound enough for further checks."""

    workflow: Loaded | None
    problems: tuple[Problem, ...]
    ranks: Mapping[str, int]
    """The readable files, in order."""
    rest: Loaded | None = None
    """The workflow without files that have mistakes or are left out; the plan decides whether these count."""

    def sort(self, problems: Iterable[Problem]) -> list[Problem]:
        """Return the problems without repetition, sorted by file, line and column."""
        return sort_problems(problems, self.ranks)


def content_of(path: Path, root: Path) -> bytes:
    """Read a workflow's main file. RequestError when it can't be read."""
    try:
        return yaml_file.read_bytes(path, within=root)
    except OSError as error:
        why = f"{name_from(root, path)}: the workflow file can't be read: {reason_of(error)}"
        hint = "name a file in it, such as .gitlab-ci.yml" if isinstance(error, IsADirectoryError) else None
        raise RequestError(why, hint=hint, code="WF_NOT_FOUND") from error
