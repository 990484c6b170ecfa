"""Which directories are loom's own: those that a list names, and that are still the same."""

import os
from pathlib import Path

import msgspec
import pytest

from loom.errors import SnapshotError
from loom.record.workspace_registry import WorkspaceRegistry
from loom.util import processes
from loom.util.paths import half_removed


@pytest.fixture
def registry(tmp_path: Path) -> WorkspaceRegistry:
    return WorkspaceRegistry(tmp_path / "state")


@pytest.fixture
def workspace(registry: WorkspaceRegistry, tmp_path: Path) -> Path:
    directory = tmp_path / "tmp" / "workspace"
    registry.make(directory, run_id="1", repo_root=tmp_path / "repo")
    return directory


def test_a_workspace_is_private_and_registered(registry: WorkspaceRegistry, workspace: Path, tmp_path: Path) -> None:
    assert workspace.stat().st_mode & 0o777 == 0o700
    assert registry.folder.stat().st_mode & 0o777 == registry.folder.parent.stat().st_mode & 0o777 == 0o700
    entry = registry.of(workspace)
    assert entry is not None
    assert (entry.path, entry.run_id, entry.repo_root, entry.kind) == (workspace, "1", str(tmp_path / "repo"), "run")
    assert registry.all() == [entry]
    assert registry.confirms(workspace)
    with pytest.raises(SnapshotError, match="File exists"):
        registry.make(workspace, run_id="2", repo_root=tmp_path)


def test_another_directory_of_that_name_is_not_the_registered_one(registry: WorkspaceRegistry, workspace: Path) -> None:
    workspace.rename(workspace.with_name("moved"))
    workspace.mkdir()
    assert not registry.confirms(workspace)
    workspace.rmdir()
    assert registry.confirms(workspace), "it is gone, and may be forgotten"
    entry = registry.of(workspace)
    assert entry is not None
    assert entry.is_same(workspace.with_name("moved"))
    assert not entry.is_same(workspace)


def test_a_directory_that_nobody_registered_is_not_ones_own(registry: WorkspaceRegistry, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert not registry.confirms(tmp_path / "other")
    assert registry.of(tmp_path / "other") is None


def test_the_remains_of_a_removal_are_the_registered_directory_or_nobodys(
    registry: WorkspaceRegistry, workspace: Path
) -> None:
    workspace.rename(half_removed(workspace))
    assert registry.confirms(workspace)
    half_removed(workspace).rename(workspace.with_name("moved"))
    half_removed(workspace).mkdir()
    assert not registry.confirms(workspace)


def test_an_entry_of_the_same_name_elsewhere_is_another_one(
    registry: WorkspaceRegistry, workspace: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere" / workspace.name).mkdir(parents=True)
    assert registry.of(tmp_path / "elsewhere" / workspace.name) is None


def test_the_device_counts_until_the_machine_starts_again(
    registry: WorkspaceRegistry, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = registry.of(workspace)
    assert entry is not None
    other = msgspec.structs.replace(entry, device=entry.device + 1)
    assert not other.is_same(workspace)
    monkeypatch.setattr(processes, "boot_id", lambda: "another boot")
    assert other.is_same(workspace)
    assert not msgspec.structs.replace(other, inode=entry.inode + 1).is_same(workspace)


def test_a_forgotten_entry_is_gone_and_a_damaged_one_does_not_count(
    registry: WorkspaceRegistry, workspace: Path
) -> None:
    registry.forget(workspace)
    registry.forget(workspace)
    assert registry.all() == []
    for name, content in (("a.json", b"{"), ("b.json", b"[]")):
        (registry.folder / name).write_bytes(content)
    os.mkfifo(registry.folder / "c.json")
    assert registry.all() == []


def test_a_state_directory_that_can_not_be_written_leaves_the_workspace(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    registry = WorkspaceRegistry(tmp_path / "state")
    registry.make(tmp_path / "workspace", run_id="1", repo_root=tmp_path, kind="snapshot")
    assert (tmp_path / "workspace").is_dir()
    assert registry.all() == []
    registry.forget(tmp_path / "workspace")


def test_the_workspace_of_a_snapshot_says_so(registry: WorkspaceRegistry, tmp_path: Path) -> None:
    registry.make(tmp_path / "snapshot", run_id="", repo_root=tmp_path, kind="snapshot")
    assert [entry.kind for entry in registry.all()] == ["snapshot"]
