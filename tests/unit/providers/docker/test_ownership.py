"""Which user of this machine a container's user is, read from what the kernel says of the container's namespace."""

from pathlib import Path

import pytest

from loom.errors import ProviderError
from loom.providers.docker.container.overlay import foreign_paths
from loom.providers.docker.container.ownership import Ids, Owner, Workspaces

ROOTLESS = "0:1000:1,1:100000:65536,"


def own(name: str) -> str:
    return "".join(":".join(line.split()) + "," for line in Path("/proc/self", name).read_text().splitlines())


@pytest.mark.parametrize(("users", "groups"), [(own("uid_map"), own("gid_map")), ("-", "-"), ("", "nonsense:x:1,")])
def test_in_one_namespace_with_us_ids_are_the_same(users: str, groups: str) -> None:
    ids = Ids.read(users, groups)
    assert ids.outside(Owner(1234, 5)) == ids.inside(Owner(1234, 5)) == Owner(1234, 5)


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        (Owner(0, 0), Owner(1000, 1000)),
        (Owner(1, 1), Owner(100000, 100000)),
        (Owner(1234, 0), Owner(101233, 1000)),
        (Owner(65536, 7), Owner(165535, 100006)),
    ],
)
def test_a_rootless_engines_root_is_its_user(inside: Owner, outside: Owner) -> None:
    ids = Ids.read(ROOTLESS, ROOTLESS)
    assert ids.outside(inside) == outside
    assert ids.inside(outside) == inside


def test_who_is_nobody_on_the_other_side_is_told() -> None:
    ids = Ids.read(ROOTLESS, ROOTLESS)
    assert ids.outside(Owner(65537, 0)) is None
    assert ids.inside(Owner(0, 0)) is None
    assert ids.inside(Owner(1000, 1001)) is None


def test_what_was_removed_has_no_files_of_others(tmp_path: Path) -> None:
    nobody = Owner(12345, 12345)
    (tmp_path / "file").touch()
    assert [*foreign_paths(tmp_path, nobody)] == [".", "file"]
    assert [*foreign_paths(tmp_path / "removed", nobody)] == []


def test_one_user_beside_root_has_the_files_of_a_workspace(tmp_path: Path) -> None:
    workspaces, one, other = Workspaces(), Owner(12345, 1), Owner(12346, 1)
    assert [workspaces.enter(tmp_path, user) for user in (Owner(0, 0), one, one)] == [False, True, False]
    with pytest.raises(ProviderError, match="in the same directory as user 12345, and this one as user 12346"):
        workspaces.enter(tmp_path, other)
    assert [workspaces.leave(tmp_path, user) for user in (one, one, Owner(0, 0))] == [
        (False, False),
        (False, False),
        (True, True),
    ]
    assert workspaces.enter(tmp_path, other)
