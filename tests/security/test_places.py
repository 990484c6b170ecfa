"""Another user of this machine makes a place before loom does, under a name that can be known."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loom.errors import SnapshotError
from loom.plan.model import Job, WorkspaceMode
from loom.providers.host import HostProvider
from loom.runner.views import Views
from loom.storage.private import make_own
from loom.util.paths import jobs_of

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes directories of another user")


@needs_root
def test_what_another_user_made_is_no_place_for_the_files_of_jobs(tmp_path: Path) -> None:
    """They would own the directory that jobs' files lie in: in /tmp anybody sees a workspace's name, and may make one like it."""
    workspace = tmp_path / "loom-run-local-1700000000000000000-123456"
    workspace.mkdir()
    theirs = jobs_of(workspace)
    theirs.mkdir()
    os.chown(theirs, 1500, 1500)
    job = Job(id="a", name="a", stage="s", target="linux", provider="host", shell=("sh",), steps=())
    with pytest.raises(SnapshotError, match="another user"):
        Views(workspace, WorkspaceMode.COPY, {"host": HostProvider({})}, alone=False).of(job)
    assert list(theirs.iterdir()) == []


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "link").symlink_to("open")
    with pytest.raises(PermissionError):
        make_own(tmp_path / "link")


def test_what_is_there_of_the_users_own_is_taken_again(tmp_path: Path) -> None:
    make_own(tmp_path / "mine")
    make_own(tmp_path / "mine")
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o700
