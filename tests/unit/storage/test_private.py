"""Directories that loom trusts: who may have filled them."""

import os
from pathlib import Path

import pytest

from loom.errors import InfrastructureError, SnapshotError
from loom.util import private


def test_missing_directories_are_made_and_closed(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        private.make_private(tmp_path / "a" / "b")
    finally:
        os.umask(mask)
    assert ((tmp_path / "a").stat().st_mode & 0o777, (tmp_path / "a/b").stat().st_mode & 0o777) == (0o700, 0o700)
    private.make_private(tmp_path / "a" / "b")


def test_a_file_in_its_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for make in (private.make_private, private.check_private):
        with pytest.raises(NotADirectoryError):
            make(tmp_path / "file")
    with pytest.raises(PermissionError, match="is a link, a file or another user's directory"):
        private.make_own(tmp_path / "file")


@pytest.mark.parametrize(
    ("mode", "private_"), [(0o700, True), (0o755, True), (0o770, True), (0o702, False), (0o707, False)]
)
def test_others_may_not_write(tmp_path: Path, mode: int, private_: bool) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a").chmod(mode)
    if private_:
        private.check_private(tmp_path / "a")
        private.check_own(tmp_path / "a", "state")
        return
    with pytest.raises(PermissionError, match=f"may be written by others \\(mode {mode:o}"):
        private.check_private(tmp_path / "a")
    with pytest.raises(InfrastructureError) as error:
        private.check_own(tmp_path / "a", "state")
    assert error.value.code == "STATE_DIR_NOT_PRIVATE"


def test_a_link_to_ones_own_directory_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    private.check_private(tmp_path / "link")
    (tmp_path / "a").chmod(0o777)
    with pytest.raises(PermissionError):
        private.check_private(tmp_path / "link")
    private.check_private(tmp_path / "missing")
    private.check_private(tmp_path / "missing" / "below")


def test_a_directory_of_ones_own_is_closed_or_was_there(tmp_path: Path) -> None:
    private.make_own(tmp_path / "own")
    assert (tmp_path / "own").stat().st_mode & 0o777 == 0o700
    private.make_own(tmp_path / "own")
    (tmp_path / "link").symlink_to("own")
    with pytest.raises(PermissionError):
        private.make_own(tmp_path / "link")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a directory to somebody else")
def test_nothing_is_made_in_a_directory_of_another_user(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 12345, -1)
    for below in ("loom", "state/loom"):
        for refuse in (private.make_private, private.check_private):
            with pytest.raises(PermissionError, match="lies in a directory of another user \\(uid 12345\\)"):
                refuse(tmp_path / "theirs" / below)
    assert list((tmp_path / "theirs").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a directory to somebody else")
def test_what_another_user_made_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o700)
    (tmp_path / "theirs" / "mine").mkdir()
    (tmp_path / "link").symlink_to("theirs/mine")
    (tmp_path / "group").mkdir()
    (tmp_path / "group").chmod(0o770)
    os.chown(tmp_path / "theirs", 12345, -1)
    os.chown(tmp_path / "link", 12345, -1, follow_symlinks=False)
    os.chown(tmp_path / "group", -1, 12345)
    for path, why in (
        ("theirs", "belongs to another user \\(uid 12345\\)"),
        ("theirs/mine", "lies in a directory of another user \\(uid 12345\\)"),
        ("link", "is a link that another user made"),
        ("group", "may be written by others"),
    ):
        with pytest.raises(PermissionError, match=why):
            private.check_private(tmp_path / path)
    with pytest.raises(PermissionError):
        private.make_own(tmp_path / "theirs")


def test_a_directory_that_was_open_is_closed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a").chmod(0o755)
    private.make_private(tmp_path / "a")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("mode", "safe"), [(0o1777, True), (0o755, True), (0o777, False), (0o757, False)])
def test_a_directory_in_one_that_others_write_to_needs_the_sticky_bit(tmp_path: Path, mode: int, safe: bool) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(mode)
    if safe:
        private.make_in_shared(tmp_path / "shared" / "own" / "one")
        for made in (tmp_path / "shared/own", tmp_path / "shared/own/one"):
            assert made.stat().st_mode & 0o777 == 0o700
        (tmp_path / "shared/own").chmod(0o755)
        with pytest.raises(SnapshotError, match="File exists"):
            private.make_in_shared(tmp_path / "shared" / "own" / "one")
        assert (tmp_path / "shared/own").stat().st_mode & 0o777 == 0o700, "somebody opened it"
    else:
        with pytest.raises(SnapshotError, match="without the sticky bit"):
            private.make_in_shared(tmp_path / "shared" / "own" / "one")
