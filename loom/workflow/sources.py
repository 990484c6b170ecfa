"""Get the files of a pipeline: from the checkout, and from elsewhere by what the commands give."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from loom.errors import reason_of
from loom.util import yaml_file
from loom.util.units import meant
from loom.values import Immutable

SUFFIXES = (".yml", ".yaml")


class NotFound(Exception):
    """A file that an include names can't be had; the message has the reason and the next move."""


class Tree(Protocol):
    """The files of one project at one commit."""

    label: str
    """For messages: empty for the user's own project, else such as `group/project@main:`."""
    project: str
    sha: str

    def read(self, path: str) -> bytes:
        """Read a file. NotFound when it is absent."""

    def paths(self) -> Iterable[str]: ...


class Component(Immutable):
    tree: Tree
    version: str
    """The tag that was chosen; empty for a branch or a commit."""


class Sources(Protocol):
    """The source of files that are not in the checkout. Each method raises NotFound."""

    def project(self, path: str, ref: str | None) -> Tree: ...

    def component(self, host: str, path: str, version: str) -> Component: ...

    def remote(self, url: str) -> bytes: ...

    def template(self, name: str) -> bytes: ...


class OwnTree(Struct):
    """The user's own project: its files as they are now."""

    label = ""
    project = ""
    sha = ""

    root: Path
    paths: Callable[[], Iterable[str]]

    def read(self, path: str) -> bytes:
        real, root = Path(os.path.realpath(self.root / path)), Path(os.path.realpath(self.root))
        if not real.is_relative_to(root):
            raise NotFound(
                f"{path} is a link that points outside the project, to {real}; include a file of the project"
            )
        try:
            return yaml_file.read_bytes(real, within=root)
        except OSError as error:
            close = meant(path, [name for name in self.paths() if name.endswith(SUFFIXES)][:2000])
            raise NotFound(f"{path} can't be read: {reason_of(error)}{close}") from error


class NotFetched(Exception):
    """A repository or ref that loom does not have; the message has the reason and the next move."""


class Unreachable(NotFetched, NotFound):
    """A server that does not answer: what it has is needed before the first job."""


class Fetched(Immutable):
    commit: str
    directory: Path
    """The files of the commit on this machine; nothing changes them."""


class Repositories(Protocol):
    def at(self, repository: str, ref: str) -> Fetched:
        """Return the files of a repository (`owner/name`) at a ref. Raises NotFetched."""
