"""Who owns the files of a workspace."""

import os
from pathlib import Path

import pytest

from loom.errors import ProviderError
from loom.providers.docker.container.ownership import Owner, Workspaces, foreign_paths, may_all


def test_what_was_removed_has_no_files_of_others(tmp_path: Path) -> None:
    nobody = Owner(12345, 12345)
    (tmp_path / "file").touch()
    assert [*foreign_paths(tmp_path, nobody)] == [".", "file"]
    assert [*foreign_paths(tmp_path / "removed", nobody)] == []


def test_one_user_beside_root_has_the_files_of_a_workspace(tmp_path: Path) -> None:
    workspaces, one, other = Workspaces(), Owner(12345, 1), Owner(12346, 1)
    assert [workspaces.enter(tmp_path, user, has_files=user.uid == 0) for user in (Owner(0, 0), one, one)] == [
        False,
        True,
        False,
    ]
    with pytest.raises(ProviderError, match="in the same directory as user 12345, and this one as user 12346"):
        workspaces.enter(tmp_path, other, has_files=False)
    assert [workspaces.leave(tmp_path, user) for user in (one, one, Owner(0, 0))] == [
        (False, False),
        (False, False),
        (True, True),
    ]
    assert workspaces.enter(tmp_path, other, has_files=False)


@pytest.mark.parametrize(
    ("own", "root", "may"),
    [
        ("0 0 4294967295", 0, True),
        ("0 0 4294967295", 165536, False),
        ("0 {uid} 1", 0, True),
        ("0 0 4294967295", os.geteuid(), True),
        ("7777777 1 1\n{euid} 165536 1", 165536, True),
        ("{euid} 165536 1", 165537, False),
        ("text", 165536, True),
        ("", 165536, True),
    ],
)
def test_who_is_root_in_a_container(own: str, root: int, *, may: bool, tmp_path: Path) -> None:
    (tmp_path / "map").write_text(own.format(uid=1000, euid=os.geteuid()))
    assert may_all(root, str(tmp_path / "map")) == may
    assert may_all(165536, str(tmp_path / "none"))
