"""How a job's container sees the workspace: the workspace itself, a copy-on-write view of it, or a volume filled from it.

A `Mount` is made before the container, says what the container is created with, and is undone after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from loom.providers.base import Change, SessionRequest
from loom.providers.files import archive_of, unpack


class Mount(Protocol):
    def spec(self) -> dict[str, Any]:
        """The engine's mount that shows the workspace at the project directory."""
        ...

    def fill(self, container_id: str) -> None:
        """Whatever the view needs between the container's creation and its start."""
        ...

    def view(self) -> Path | None: ...

    def get_archive(self, paths: Iterable[str]) -> Iterator[bytes]: ...

    def put_archive(self, archive: Iterable[bytes]) -> None: ...

    def changes(self) -> Sequence[Change] | None: ...

    def undo(self) -> None:
        """Remove what was made; the container is gone already."""
        ...


class BindMount:
    """The workspace itself."""

    def __init__(self, request: SessionRequest) -> None:
        self._request = request
        self._workspace = request.workspace

    def spec(self) -> dict[str, Any]:
        return {"Type": "bind", "Source": str(self._workspace), "Target": self._request.project_dir, "ReadOnly": False}

    def fill(self, container_id: str) -> None:
        pass

    def view(self) -> Path | None:
        return self._workspace

    def get_archive(self, paths: Iterable[str]) -> Iterator[bytes]:
        return archive_of(self._workspace, paths)

    def put_archive(self, archive: Iterable[bytes]) -> None:
        unpack(archive, self._workspace)

    def changes(self) -> Sequence[Change] | None:
        return None

    def undo(self) -> None:
        pass
