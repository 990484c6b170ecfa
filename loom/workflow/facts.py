"""The facts about the repository, the event and the user's settings that reading a file may ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from loom.config import Config
from loom.values import Immutable

if TYPE_CHECKING:
    from loom.util.yaml_file import Node
    from loom.workflow.sources import Repositories, Sources


class Variable(Immutable):
    value: str
    expand: bool = True
    file: bool = False
    """The job gets the path of a file that has the value."""
    ref: str = ""
    """The reference to a secret, which only the job gets: `value` is the text that conditions see instead."""
    environments: Mapping[str, Variable] = MappingProxyType({})
    """Globs of environment names, with the variable's value in a job of such an environment. Other jobs do not get it."""
    node: Node | None = None


class Facts(Immutable):
    config: Config = Config()
    predefined: Mapping[str, str] = {}
    """Loom's own variables (`CI_COMMIT_BRANCH`, ...); unknown ones are absent."""
    changed: Callable[[str | None], Iterable[str] | None] = lambda _: None
    """Files that differ from a commit (None: from `changes_base`, else HEAD), relative to the root; None if unknown."""
    changes_base: str | None = None
    files: Callable[[], Iterable[str]] = tuple
    """Every file of the snapshot, relative to the root."""
    own_variables: Callable[[], Mapping[str, Variable]] = dict
    """The variables that the project has on the server, from the user's file."""
    inputs: Mapping[str, str] = {}
    """The inputs of the workflow's main file, as text."""
    typed_inputs: Mapping[str, Any] = {}
    """The inputs that a parent pipeline gives."""
    event_payload: Mapping[str, Any] = {}
    given: Mapping[str, str] = {}
    """The variables of the command line, for decisions while the workflow is read."""
    sources: Callable[[], Sources | None] = lambda: None
    """The source of files of other projects that a workflow includes; None: none are read."""
    own_files_only: bool = False
    """Leave out what a workflow includes from elsewhere, and read the rest as far as it is sound."""
    repositories: Callable[[], Repositories | None] = lambda: None
    """The source of actions and called workflows; None: nothing is fetched."""
