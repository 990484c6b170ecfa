"""Which directories are loom's own: those that a list names, and that are still the same."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from loom.errors import SnapshotError
from loom.record.claims import Claims
from loom.util import processes
from loom.util.paths import half_removed


@pytest.fixture
def claims(tmp_path: Path) -> Claims:
    return Claims(tmp_path / "state")


@pytest.fixture
def workspace(claims: Claims, tmp_path: Path) -> Path:
    place = tmp_path / "tmp" / "workspace"
    claims.make(place, run_id="1", repo_root=tmp_path / "repo")
    return place


def test_a_workspace_is_private_and_claimed(claims: Claims, workspace: Path, tmp_path: Path) -> None:
    assert workspace.stat().st_mode & 0o777 == 0o700
    assert claims.folder.stat().st_mode & 0o777 == claims.folder.parent.stat().st_mode & 0o777 == 0o700
    claim = claims.of(workspace)
    assert claim is not None
    assert (claim.path, claim.run_id, claim.repo_root, claim.kind) == (workspace, "1", str(tmp_path / "repo"), "run")
    assert claims.all() == [claim]
    assert claims.confirms(workspace)
    with pytest.raises(SnapshotError, match="File exists"):
        claims.make(workspace, run_id="2", repo_root=tmp_path)


def test_another_directory_of_that_name_is_not_the_claimed_one(claims: Claims, workspace: Path) -> None:
    workspace.rename(workspace.with_name("moved"))
    workspace.mkdir()
    assert not claims.confirms(workspace)
    workspace.rmdir()
    assert claims.confirms(workspace), "it is gone, and may be forgotten"
    claim = claims.of(workspace)
    assert claim is not None
    assert claim.holds_for(workspace.with_name("moved"))
    assert not claim.holds_for(workspace)


def test_a_directory_that_nobody_claimed_is_not_ones_own(claims: Claims, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert not claims.confirms(tmp_path / "other")
    assert claims.of(tmp_path / "other") is None


def test_the_remains_of_a_removal_are_the_claimed_directory_or_nobodys(claims: Claims, workspace: Path) -> None:
    workspace.rename(half_removed(workspace))
    assert claims.confirms(workspace)
    half_removed(workspace).rename(workspace.with_name("moved"))
    half_removed(workspace).mkdir()
    assert not claims.confirms(workspace)


def test_a_claim_of_the_same_name_elsewhere_is_another_one(claims: Claims, workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / workspace.name).mkdir(parents=True)
    assert claims.of(tmp_path / "elsewhere" / workspace.name) is None


def test_the_device_counts_until_the_machine_starts_again(
    claims: Claims, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = claims.of(workspace)
    assert claim is not None
    other = msgspec.structs.replace(claim, device=claim.device + 1)
    assert not other.holds_for(workspace)
    monkeypatch.setattr(processes, "boot_id", lambda: "another boot")
    assert other.holds_for(workspace)
    assert not msgspec.structs.replace(other, inode=claim.inode + 1).holds_for(workspace)


def test_a_forgotten_claim_is_gone_and_a_damaged_one_does_not_count(claims: Claims, workspace: Path) -> None:
    claims.forget(workspace)
    claims.forget(workspace)
    assert claims.all() == []
    for name, content in (("a.json", b"{"), ("b.json", b"[]")):
        (claims.folder / name).write_bytes(content)
    os.mkfifo(claims.folder / "c.json")
    assert claims.all() == []


def test_a_state_directory_that_can_not_be_written_leaves_the_workspace(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    claims = Claims(tmp_path / "state")
    claims.make(tmp_path / "workspace", run_id="1", repo_root=tmp_path, kind="snapshot")
    assert (tmp_path / "workspace").is_dir()
    assert claims.all() == []
    claims.forget(tmp_path / "workspace")


def test_the_workspace_of_a_snapshot_says_so(claims: Claims, tmp_path: Path) -> None:
    claims.make(tmp_path / "snapshot", run_id="", repo_root=tmp_path, kind="snapshot")
    assert [claim.kind for claim in claims.all()] == ["snapshot"]
