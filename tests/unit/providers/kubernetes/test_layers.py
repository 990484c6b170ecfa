"""A snapshot's layers: the same files give the same bytes, and a change reaches its own layer only."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from loom.errors import ProviderError
from loom.providers.kubernetes.images import layers
from loom.providers.kubernetes.images.layers import LayerSource, Packer, PlannedLayer, planned


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Three hundred files in folders, 24 MB, a link, and a repository's own folder."""
    root = tmp_path / "workspace"
    for number in range(300):
        path = root / f"d{number // 20}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number % 251]) * 80_000)
    (root / "link").symlink_to("d0/f0")
    (root / ".git").mkdir()
    (root / ".git/HEAD").write_text("ref: refs/heads/main\n")
    return root


def keys(plan: list[PlannedLayer]) -> list[str]:
    return [one.key for one in plan]


def parts(workspace: Path) -> list[LayerSource]:
    return [LayerSource(source=workspace, folder=layers.WORKSPACE)]


def test_a_change_reaches_its_own_layer_only(workspace: Path) -> None:
    before = keys(planned(parts(workspace)))
    assert len(before) > 3
    (workspace / "d7/f150").write_text("other")
    (workspace / "d3/new").write_text("new")
    after = keys(planned(parts(workspace)))
    assert 1 <= len(set(after) - set(before)) <= 2
    (workspace / ".git/HEAD").write_text("ref: refs/heads/other\n")
    assert len(set(keys(planned(parts(workspace)))) - set(after)) == 1


def test_the_same_files_give_the_same_bytes(workspace: Path, tmp_path: Path) -> None:
    plan = planned(parts(workspace))[0]
    twin = planned(parts(workspace))[0]
    with Packer(tmp_path / "one").pack(plan) as (one, first), Packer(tmp_path / "two").pack(twin) as (again, second):
        assert (one, first.read()) == (again, second.read())
    assert Packer(tmp_path / "one").known(plan) == one
    assert Packer(tmp_path / "three").known(plan) is None


def test_a_layer_holds_the_files_below_its_folder(workspace: Path, tmp_path: Path) -> None:
    (workspace / "d0/f0").chmod(0o755)
    os.utime(workspace / "d0/f0", (1, 1_000_000_000))
    found: dict[str, tarfile.TarInfo] = {}
    for plan in planned(parts(workspace)):
        with Packer(tmp_path / "packed").pack(plan) as (_, file):
            content = gzip.decompress(file.read())
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            found |= {member.name: member for member in archive}
    names = {str(path.relative_to(workspace)) for path in workspace.rglob("*")}
    assert set(found) == {f"{layers.ROOT}/{layers.WORKSPACE}/{name}" for name in names}
    first = found[f"{layers.ROOT}/{layers.WORKSPACE}/d0/f0"]
    assert (first.mode, first.mtime, first.uid, first.size) == (0o755, 1_000_000_000, 0, 80_000)


def test_objects_of_git_are_told_apart_by_their_names(tmp_path: Path) -> None:
    store = tmp_path / "objects"
    (store / "pack").mkdir(parents=True)
    (store / "pack/pack-1.pack").write_bytes(b"x" * 1000)
    plan = planned([LayerSource(source=store, folder="1", by_name=True)])
    assert layers.digests(plan) == b""
    (store / "pack/pack-2.pack").write_bytes(b"y")
    assert keys(planned([LayerSource(source=store, folder="1", by_name=True)])) != keys(plan)


def test_a_file_that_changes_while_it_is_packed_is_an_error(workspace: Path, tmp_path: Path) -> None:
    plan = planned(parts(workspace))[-2]
    victim = next(item.entry.path for item in plan.items if item.content)
    (workspace / victim).write_bytes(b"!" * 80_000)
    packing = Packer(tmp_path / "packed").pack(plan)
    with pytest.raises(ProviderError, match="changed while the snapshot was packed"), packing:
        raise AssertionError("it was packed")
    assert Packer(tmp_path / "packed").known(plan) is None
