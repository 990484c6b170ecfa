"""The repository of a bundle: what is packed, and what it becomes elsewhere."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from loom.commands.project import Project as LoomProject
from loom.commands.record.bundle import _repository
from loom.errors import RequestError
from loom.snapshot.bundles import BundledRepository, BundledTree, TreeOfBundle

from .conftest import ENVIRONMENT, Repo


@pytest.mark.parametrize("branch", ["topic", "no..branch", None])
def test_a_tree_is_the_same_elsewhere_with_its_commit_branch_and_tags(
    work: Repo, tmp_path: Path, branch: str | None
) -> None:
    work.git("tag", "v1")
    work.write("README", "not committed\n")
    head, tree = work.git("rev-parse", "HEAD").strip(), work.would_commit()
    packing = BundledRepository(work.root, "", ENVIRONMENT, whole=False)
    tip = packing.tip(head, tree)
    tags = packing.tags(head)
    assert tags == {"v1": head}
    pack = packing.packed(tip, tags, [])

    def there(name: str, tree_sha: str) -> tuple[Repo, TreeOfBundle]:
        (tmp_path / name).mkdir()
        bundled = BundledTree(head_sha=head, tree_sha=tree_sha, tip_sha=tip, pack=True, tags={**tags, "gone": "b" * 40})
        laid_out = TreeOfBundle(bundled, tmp_path / name, [], tmp_path / "x.bundle")
        laid_out.fetch(pack)
        return Repo(tmp_path / name), laid_out

    got, laid_out = there("elsewhere", tree)
    assert laid_out.contents() == (len("not committed\nprint(1)\npage\n"), [])
    laid_out.check_out(branch)
    assert got.would_commit() == tree
    assert got.git("rev-parse", "HEAD", "v1").split() == [head, head]
    assert got.git("tag") == "v1\n"
    assert got.git("branch", "--show-current").strip() == (branch if branch == "topic" else "")
    assert got.git("status", "--porcelain") == "M  README\n"
    with pytest.raises(RequestError, match="are not those that it names"):
        there("other", "a" * 40)[1].contents()


def test_what_a_bundle_builds_on_is_named_where_it_is_missing(work: Repo, tmp_path: Path) -> None:
    head = work.git("rev-parse", "HEAD").strip()
    bundled = BundledTree(head_sha=head, tree_sha="a" * 40, tip_sha=head, pack=False)
    laid_out = TreeOfBundle(bundled, tmp_path, [], tmp_path / "x.bundle")
    with pytest.raises(RequestError, match=f"this clone lacks commit {head[:12]}"):
        laid_out.fetch(tmp_path / "none")


@pytest.mark.parametrize("cut", ["workspace", "both"])
def test_only_a_clone_of_the_user_that_is_shallow_is_refused(tmp_path: Path, cut: str) -> None:
    """GitHub's checkout cuts the history of the workspace, whose objects are whole."""
    git = ("git", "-c", "user.name=t", "-c", "user.email=t@e")
    origin, workspace = tmp_path / "origin", tmp_path / "workspace"
    for words in (
        ("init", "-q", str(origin)),
        *[("-C", str(origin), "commit", "-q", "--allow-empty", "-m", text) for text in ("one", "two")],
        ("clone", "-q", str(origin), str(workspace)),
    ):
        subprocess.run([*git, *words], check=True)
    head = subprocess.check_output(["git", "-C", str(origin), "rev-parse", "HEAD"], text=True)
    for root in (workspace, origin) if cut == "both" else (workspace,):
        (root / ".git/shallow").write_text(head)
    here = cast(LoomProject, SimpleNamespace(root=origin, environ=dict(os.environ)))
    repository = _repository(workspace, "", here)
    if cut == "both":
        with pytest.raises(RequestError, match="shallow"):
            repository.packed(head.strip(), [], [])
    else:
        pack = repository.packed(head.strip(), [], [])
        subprocess.run(["git", "clone", "-q", "--mirror", str(pack), str(tmp_path / "got")], check=True)
        count = ["git", "-C", str(tmp_path / "got"), "rev-list", "--count", head.strip()]
        assert subprocess.check_output(count) == b"2\n"
