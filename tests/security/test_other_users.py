"""Another user of this machine makes a directory before loom does, under a name that can be known."""

import os
from pathlib import Path

import pytest

from loom.errors import SnapshotError
from loom.plan.model import Job, WorkspaceMode
from loom.providers.host import HostProvider
from loom.runner.views import Views
from loom.util.paths import jobs_of
from loom.util.private import make_in_shared, make_own, make_private

from .conftest import Victim

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes directories of another user")


@needs_root
def test_what_another_user_made_takes_no_files_of_jobs(tmp_path: Path) -> None:
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


def test_a_private_directory_is_closed_with_all_that_is_made_above_it(tmp_path: Path) -> None:
    make_private(tmp_path / "a/b/c")
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b", "a/b/c")} == {0o700}
    opened = tmp_path / "opened"
    opened.mkdir(mode=0o755)
    opened.chmod(0o755)
    make_private(opened)
    assert opened.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o1777, 0o755])
def test_a_workspace_is_made_where_nobody_else_can_replace_it(tmp_path: Path, mode: int) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(mode)
    if mode in (0o777, 0o757):
        with pytest.raises(SnapshotError, match="without the sticky bit"):
            make_in_shared(shared / "own/workspace")
        assert list(shared.iterdir()) == []
    else:
        make_in_shared(shared / "own/workspace")
        assert (shared / "own").stat().st_mode & 0o777 == 0o700


@needs_root
@pytest.mark.slow
def test_the_temporary_directory_of_somebody_else_holds_no_workspace(victim: Victim) -> None:
    theirs = victim.home.parent / "theirs"
    theirs.mkdir()
    os.chown(theirs, 1500, 1500)
    for command in (("snapshot",), ("run",)):
        done = victim.loom(*command, TMPDIR=str(theirs))
        assert done.returncode == 3
        assert "belongs to another user (uid 1500)" in " ".join((done.stdout + done.stderr).split())
        assert list(theirs.iterdir()) == []
    theirs.chmod(0o1777)
    assert victim.loom("snapshot", TMPDIR=str(theirs)).returncode == 0


@needs_root
@pytest.mark.slow
def test_no_command_uses_or_fills_a_state_or_cache_directory_of_another_user(victim: Victim) -> None:
    theirs = victim.home.parent / "theirs"
    (theirs / "loom").mkdir(parents=True)
    for place in (theirs, theirs / "loom"):
        os.chown(place, 1500, 1500)
        place.chmod(0o1777)
    for variable, code in (("XDG_STATE_HOME", "STATE"), ("XDG_CACHE_HOME", "CACHE")):
        for command in (("run",), ("snapshot",), ("trust",), ("runs",), ("check",), ("clean",), ("resume",)):
            for named in (theirs, theirs / "new"):
                done = victim.loom(*command, **{variable: str(named)})
                assert done.returncode == 3, (command, done)
                assert f"the {code.lower()} directory {named}/loom can't be used" in done.stderr, (command, done.stderr)
    assert [str(path.relative_to(theirs)) for path in theirs.rglob("*")] == ["loom"]
