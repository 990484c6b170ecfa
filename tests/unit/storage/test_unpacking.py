"""Entries of archives: which are safe, and that a file has the size, mode and time that its entry states."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from loom.storage import unpacking
from loom.storage.tar import Kind, TarEntry
from loom.storage.unpacking import UnsafeArchive


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


def test_a_special_file_is_never_made(tmp_path: Path) -> None:
    with pytest.raises(UnsafeArchive, match=r"^'a' is a device or FIFO$"):
        unpacking.unpack_items([(of("a", "special", "FIFO"), io.BytesIO())], tmp_path)
    assert list(tmp_path.iterdir()) == []
