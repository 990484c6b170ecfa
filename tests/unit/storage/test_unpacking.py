"""Entries of archives: which are safe, and that a file has the size, mode and time that its entry states."""

import errno
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from loom.storage import unpacking
from loom.storage.tar import Item, Kind, TarEntry
from loom.storage.unpacking import UnsafeArchive
from tests.support.descriptors import open_below


@pytest.mark.parametrize("size", [0, 1, 3, 4, 6, 7])
@pytest.mark.parametrize("more", [b"", b"beyond"])
def test_a_file_has_as_many_bytes_as_its_entry_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, more: bytes
) -> None:
    monkeypatch.setattr(unpacking, "_CHUNK", 3)
    content = b"0123456"[:size]
    entry = TarEntry(path="file", kind="file", mode=0o640, size=size, mtime_ns=5_000_000_007)
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(2):  # the second one replaces the first
            unpacking._write_file(entry, io.BytesIO(content + more), "file", directory)
    finally:
        os.close(directory)
    made = tmp_path / "file"
    assert made.read_bytes() == content
    assert (made.stat().st_mode & 0o7777, made.stat().st_mtime_ns) == (0o640, 5_000_000_007)


def of(path: str, kind: Kind = "file", target: str = "", **more: int) -> TarEntry:
    return TarEntry(path=path, kind=kind, mode=0o644, mtime_ns=0, target=target, **more)


LONG = "x" * 4096
DEEP = "/".join("x" * 256)


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([of("/a")], "'/a' leads out of the workspace"),
        ([of("a/../b")], "'a/../b' leads out of the workspace"),
        ([of("a\0b")], "'a\\x00b' leads out of the workspace"),
        ([of("/" + LONG)], f"'/{LONG[:199]}' leads out of the workspace"),
        ([of("x" + LONG)], f"{LONG[:200]!r}... is too long or too deep a name"),
        ([of("x/" + DEEP)], f"{DEEP[:200]!r}... is too long or too deep a name"),
        ([of(".git/loom")], "'.git/loom' is a path of loom's own record"),
        ([of("./.git/loom/x")], "'./.git/loom/x' is a path of loom's own record"),
        ([of("a", "link", "b"), of("a/b/c")], "'a/b/c' leads through a link of the same archive"),
        ([of("a/b", "link", "c"), of("a/b/c")], "'a/b/c' leads through a link of the same archive"),
        ([of("a", "special", "FIFO")], "'a' is a device or FIFO"),
        ([of("a", "link")], "'a' is a link to '', which is not a path"),
        ([of("a", "link", "b\0c")], "'a' is a link to 'b\\x00c', which is not a path"),
        ([of("a", "link", "x" + LONG)], f"'a' is a link to {LONG[:100]!r}, which is not a path"),
        ([of("a", "hardlink", "b")], "'a' is a hard link to 'b', which is not a file of the archive"),
        ([of("b"), of("a", "hardlink", "/b")], "'a' is a hard link to '/b', which is not a file of the archive"),
        (
            [of("b", "directory"), of("a", "hardlink", "b")],
            "'a' is a hard link to 'b', which is not a file of the archive",
        ),
        (
            [of("b"), of("b", "link", "c"), of("a", "hardlink", "b")],
            "'a' is a hard link to 'b', which is not a file of the archive",
        ),
        ([of("a"), of("b"), of("c"), of("d")], "it holds more than 3 files and directories"),
        ([of("a", size=1 << 30), of("b", size=1)], "it holds more than 1 GiB"),
    ],
)
def test_an_entry_that_is_not_safe_is_refused_with_the_reason(
    entries: list[TarEntry], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "MOST_ENTRIES", 3)
    monkeypatch.setattr(unpacking, "MOST_BYTES", 1 << 30)
    with pytest.raises(UnsafeArchive) as refused:
        list(unpacking.checked([(entry, None) for entry in entries], reserved=[".git/loom"]))
    assert str(refused.value) == why
    found = list(unpacking.checked([(entry, None) for entry in entries[:-1]], reserved=[".git/loom"]))
    assert [entry.path for entry, _ in found] == [entry.path for entry in entries[:-1]], "the others are safe"


def test_entries_at_the_limits_are_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        *(
            of(LONG),
            of(DEEP),
            of("b"),
            of("./a//b", size=1 << 30),
            of("c", "hardlink", "./b"),
            of("d", "hardlink", "c"),
        ),
        *(of("l", "link", LONG), of("l2/x"), of(".", "directory"), of("e/", "directory"), of(".git/loomed")),
    ]
    monkeypatch.setattr(unpacking, "MOST_ENTRIES", len(entries) - 1)
    monkeypatch.setattr(unpacking, "MOST_BYTES", 1 << 30)
    found = list(unpacking.checked([(entry, None) for entry in entries], reserved=[".git/loom"]))
    assert [entry.path for entry, _ in found] == [
        *(LONG, DEEP, "b", "a/b", "c", "d", "l", "l2/x", "e", ".git/loomed"),
    ]
    assert [entry.target for entry, _ in found if entry.kind == "hardlink"] == ["b", "c"]


def test_a_tree_has_what_its_archive_states_and_nothing_stays_open(tmp_path: Path) -> None:
    entries = [
        TarEntry("d", "directory", 0o750, 1_000_000_001),
        TarEntry("d/file", "file", 0o640, 2_000_000_002, 3),
        TarEntry("d/link", "link", 0o777, 3_000_000_003, target="file"),
        TarEntry("e/f/same", "hardlink", 0o640, 2_000_000_002, target="d/file"),
        TarEntry("e/f/second", "hardlink", 0o777, 3_000_000_003, target="d/link"),  # `checked` takes none of a link
        TarEntry("file", "file", 0o600, 4_000_000_004),
    ]
    unpacking.unpack_items([(entry, io.BytesIO(b"abc")) for entry in entries], tmp_path)
    assert open_below(tmp_path) == []
    for entry in entries:
        made = tmp_path / entry.path
        status = made.lstat()
        assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (entry.mode, entry.mtime_ns), entry.path
        assert not made.is_symlink() or os.readlink(made) == "file"
        assert entry.kind != "file" or made.read_bytes() == b"abc"[: entry.size]
    assert (tmp_path / "d/file").samefile(tmp_path / "e/f/same")
    assert (tmp_path / "e/f/second").is_symlink()


def test_a_special_file_is_never_made(tmp_path: Path) -> None:
    with pytest.raises(UnsafeArchive, match=r"^'a' is a device or FIFO$"):
        unpacking.unpack_items([(of("a", "special", "FIFO"), io.BytesIO())], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_directories_get_their_mode_and_time_last_and_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    directories = [
        TarEntry("d", "directory", 0o500, 5_000_000_007),
        TarEntry("d/e", "directory", 0o711, 6_000_000_008),
    ]
    file = of("d/e/file", size=1)
    items = [(entry, None) for entry in directories]
    written = unpacking.unpack_items([*items, (file, io.BytesIO(b"x"))], tmp_path)
    assert (written.files, written.bytes) == (1, 1)
    for entry in directories:
        made = (tmp_path / entry.path).stat()
        assert (made.st_mode & 0o7777, made.st_mtime_ns) == (entry.mode, entry.mtime_ns)

    def failing() -> Iterator[Item]:
        yield of("new/below/file", size=1), io.BytesIO(b"x")
        yield of("top", size=1), io.BytesIO(b"x")
        raise UnsafeArchive("climbs")

    with pytest.raises(UnsafeArchive, match="climbs"):
        unpacking.unpack_items(failing(), tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "d/e/file"]


@pytest.mark.parametrize(
    ("there", "error"), [("file", PermissionError), ("link", PermissionError), ("directory", UnsafeArchive)]
)
def test_what_can_not_be_replaced_is_an_error_of_its_own_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str, error: type[Exception]
) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("directory")
    (tmp_path / "file").touch()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "no")

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(error):
        unpacking.unpack_items([(of(there, "link", "x"), None)], tmp_path)


def test_a_directory_that_can_not_be_entered_is_an_error_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = os.open

    def refuse(path: str, *given: int, **named: int) -> int:
        if path == "d":
            raise PermissionError(errno.EACCES, "no")
        return opening(path, *given, **named)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError):
        unpacking.unpack_items([(of("d/l", "link", "x"), None)], tmp_path)


def test_only_what_was_written_is_removed_after_a_failure(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for directory in (inside, outside / "below"):
        directory.mkdir(parents=True)
    (outside / "below/file").write_text("somebody's")

    def failing() -> Iterator[Item]:
        yield of("new/below/file", size=1), io.BytesIO(b"x")
        (inside / "new").rename(tmp_path / "moved")
        (inside / "new").symlink_to(outside)
        raise UnsafeArchive("climbs")

    with pytest.raises(UnsafeArchive, match="climbs"):
        unpacking.unpack_items(failing(), inside)
    assert (outside / "below/file").read_text() == "somebody's"
    assert not (tmp_path / "moved/below/file").exists()
