"""What can't be read in a workspace is left out and told, by each of the two ways to look at it."""

import errno
import os
from collections.abc import Generator, Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from loom.storage.selection import Everything, PathSelection
from loom.storage.tar import Item, TarEntry
from loom.storage.unpacking import unpack_items
from loom.storage.workspace import DirectoryView, Skipped, TarView
from tests.support.descriptors import open_below

FAILING = {
    "a file that may not be looked at": ("stat", errno.EACCES, "a/b", "Permission denied"),
    "a file on a broken disk": ("open", errno.EIO, "a/b", "Input/output error"),
    "a directory on a broken disk": ("open", errno.EIO, "a", "Input/output error"),
}


@pytest.mark.parametrize("case", FAILING.values(), ids=FAILING)
def test_what_can_not_be_read_is_left_out(
    case: tuple[str, int, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, code, failing, why = case
    (tmp_path / "a").mkdir()
    for name in ("a/b", "a/c", "d"):
        (tmp_path / name).write_text("text")
    real = getattr(os, call)

    def broken(path: Any, *arguments: Any, **named: Any) -> Any:
        if path == Path(failing).name:
            raise OSError(code, os.strerror(code))
        return real(path, *arguments, **named)

    monkeypatch.setattr(os, call, broken)
    skipped: list[Skipped] = []
    read = [entry.path for entry, _ in DirectoryView(tmp_path).read(PathSelection(["."]), skipped.append)]
    assert skipped == [Skipped(path=failing, reason=why)]
    assert read == [path for path in ("a", "a/b", "a/c", "d") if path != failing and not path.startswith(f"{failing}/")]


@pytest.mark.parametrize(("call", "on"), [("stat", "b"), ("open", "a")])
def test_a_broken_root_is_an_error(call: str, on: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    real = getattr(os, call)

    def broken(path: Any, *arguments: Any, **named: Any) -> Any:
        if path == on:
            raise OSError(errno.EIO, "broken")
        return real(path, *arguments, **named)

    monkeypatch.setattr(os, call, broken)
    with pytest.raises(OSError, match="broken"):
        list(DirectoryView(tmp_path).read(PathSelection(["a/b/c", "a/b"]), lambda _: None))


def test_only_a_file_has_a_size(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "f").write_text("text")
    (tmp_path / "g").hardlink_to(tmp_path / "f")
    (tmp_path / "l").symlink_to("nowhere")
    entries = list(DirectoryView(tmp_path).entries(PathSelection(["."]), lambda _: None))
    assert [(one.path, one.kind, one.size) for one in entries] == [
        *(("d", "directory", 0), ("f", "file", 4), ("g", "hardlink", 0), ("l", "link", 0)),
    ]
    assert [one.target for one in entries] == ["", "", "f", "nowhere"]


def test_reading_a_directory_ends_where_somebody_says_so(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).touch()
    checks = iter((None, None, KeyboardInterrupt()))

    def check() -> None:
        if (error := next(checks)) is not None:
            raise error

    with pytest.raises(KeyboardInterrupt):
        list(DirectoryView(tmp_path, check).read(Everything("."), lambda _: None))
    assert next(checks, "no more") == "no more"


def test_a_walk_leaves_nothing_open(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c").touch()
    for path in ("a/b/c", "a/no/c", "a/b"):
        list(DirectoryView(tmp_path).read(PathSelection([path]), lambda _: None))
    assert open_below(tmp_path) == []


def test_a_pipe_that_takes_a_files_place_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("text")
    real = os.open

    def swapped(path: Any, *arguments: Any, **named: Any) -> int:
        if path == "a":
            (tmp_path / "a").unlink()
            os.mkfifo(tmp_path / "a")
        return real(path, *arguments, **named)

    monkeypatch.setattr(os, "open", swapped)
    skipped: list[Skipped] = []
    assert not list(DirectoryView(tmp_path).read(PathSelection(["a"]), skipped.append))
    assert skipped == [Skipped(path="a", reason="a FIFO, not a file")]


class Archives:
    """Has one archive with hard links to a file that nobody asked for, and that file where it is asked for alone."""

    def __init__(self, *, readable: bool) -> None:
        self.readable = readable
        self.asked: list[list[str]] = []

    def get(self, paths: Iterable[str], on_skipped: Any) -> Generator[Item, None, None]:
        self.asked.append(list(paths))
        if len(self.asked) == 1:
            on_skipped(Skipped(path="out/socket", reason="a socket, not a file"))
            on_skipped(Skipped(path="other/socket", reason="a socket, not a file"))
            links = [
                TarEntry(f"./out/{name}", "hardlink", 0o4755, 5, 0, "./other/first") for name in ("one", "two", "three")
            ]
            first = TarEntry("./other/first", "file", 0o755, 5, 4), BytesIO(b"text")
            climbing = TarEntry("./out/../out/x", "file", 0o600, 5)
            yield from [first, *((link, None) for link in links), (climbing, None)]
        elif self.readable:
            yield TarEntry("./out/one", "file", 0o4755, 7_000_000_000, 4), BytesIO(b"text")

    def put(self, items: Iterable[Item]) -> None:
        raise AssertionError


def test_hard_links_to_what_was_not_asked_for_are_a_file_and_links_to_it() -> None:
    session, skipped = Archives(readable=True), list[Skipped]()
    found = [
        (entry, content.read() if content is not None else None)
        for entry, content in TarView(session).read(PathSelection(["out"]), skipped.append)
    ]
    assert session.asked == [["out"], ["out/one"]]
    assert skipped == [Skipped(path="out/socket", reason="a socket, not a file")]
    assert found == [
        (TarEntry("out/one", "file", 0o755, 7_000_000_000, 4), b"text"),
        (TarEntry("out/two", "hardlink", 0o755, 7_000_000_000, 0, "out/one"), None),
        (TarEntry("out/three", "hardlink", 0o755, 7_000_000_000, 0, "out/one"), None),
    ]


def test_hard_links_whose_content_can_not_be_read_are_left_out() -> None:
    session, skipped = Archives(readable=False), list[Skipped]()
    assert not list(TarView(session).read(PathSelection(["out"]), skipped.append))
    reason = "a hard link to a file whose content could not be read"
    assert skipped[1:] == [Skipped(path=f"out/{name}", reason=reason) for name in ("one", "two", "three")]


@pytest.mark.parametrize(
    ("pattern", "roots", "held", "not_held"),
    [
        ("a/b/*.txt", ("a/b",), ("a", "a/b"), ("c", "a/c")),
        ("a/*/c", ("a",), ("a/x", "a/x/c"), ("b/x", "a/x/d")),
        ("{a,b}/c", ("a/c", "b/c"), ("a", "b"), ("c",)),
        ("a/**/c", ("a",), ("a/x", "a/x/y"), ("b",)),
        ("*", ("",), ("a", "b"), ()),
        ("a", ("a",), ("a", "a/b/c"), ("b",)),
    ],
)
def test_a_walk_enters_only_what_may_hold_something(
    pattern: str, roots: tuple[str, ...], held: tuple[str, ...], not_held: tuple[str, ...]
) -> None:
    selection = PathSelection([pattern])
    assert selection.roots == roots
    assert [path for path in (*held, *not_held) if selection.may_hold(path)] == list(held)


def test_a_file_that_grows_while_it_is_copied_has_the_size_of_its_entry(tmp_path: Path) -> None:
    size = (1 << 20) + 5
    unpack_items([(TarEntry("a", "file", 0o644, 0, size), BytesIO(b"x" * size + b"more"))], tmp_path)
    assert (tmp_path / "a").stat().st_size == size
