"""Repositories of a server that workflows name: of actions, of workflows that are called."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from msgspec import Struct


class NotFetched(Exception):
    """A repository or ref that loom does not have; the message has the reason and the next move."""


class Fetched(Struct, frozen=True, kw_only=True):
    commit: str
    directory: Path
    """The files of the commit on this machine; nothing changes them."""


class Repositories(Protocol):
    def at(self, repository: str, ref: str) -> Fetched:
        """Return the files of a repository (`owner/name`) at a ref. Raises NotFetched."""
