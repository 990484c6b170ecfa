"""Which workspaces are kept under another name, and which of them a later run gets."""

from pathlib import Path

import pytest

from loom.record.store import Store
from loom.runner.spares import make_workspace
from loom.util.paths import new_workspace


@pytest.mark.parametrize(("beside", "got"), [(True, ["file"]), (False, [])])
def test_a_run_gets_a_spare_workspace_of_its_own_directory(tmp_path: Path, beside: bool, got: list[str]) -> None:
    store, root = Store(tmp_path / "state"), tmp_path / "repo"
    workspace, spare = (new_workspace(tmp_path / name, "1") for name in ("one", "one" if beside else "other"))
    store.workspaces.make(spare, run_id="1", repo_root=root, kind="spare")
    (spare / "file").touch()
    store.workspaces.known(spare).write_bytes(b"")
    make_workspace(store, workspace, run_id="2", repo_root=root)
    assert [path.name for path in workspace.iterdir()] == got
    assert store.workspaces.confirms(workspace)
    assert store.workspaces.spares(root) == ([] if beside else [spare])
    assert store.workspaces.known(spare).exists() is not beside
