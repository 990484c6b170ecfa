"""The two ways to look at a workspace: as a directory, and as tar streams."""

from collections.abc import Callable
from pathlib import Path

import pytest

from loom.storage.workspace import DirectoryView, TarView, WorkspaceView

from ..views import TarSession

ViewOf = Callable[[Path], WorkspaceView]


@pytest.fixture(params=["directory", "tar"])
def view_of(request: pytest.FixtureRequest) -> Callable[[Path], WorkspaceView]:
    if request.param == "directory":
        return DirectoryView
    return lambda path: TarView(TarSession(path))
