"""What a copy writes, what it reports, and what it notices of a source that changes at the same time."""

import errno
import io
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loom.cancel import Cancel
from loom.errors import SnapshotError
from loom.snapshot import SnapshotCanceled, copy_files, copy_workers
from loom.snapshot.copy_files import ANY, ATTEMPTS, EXECUTABLE, LINK, LINK_FROM_FILE, OBJECT, REGULAR, SAME, Copier
from tests.support.descriptors import open_below

LATER = time.time_ns() + (1 << 60)
Copying = Callable[..., copy_files.Findings]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    return tmp_path / "source"


@pytest.fixture
def target(source: Path) -> Path:
    return source.with_name("target")


def copied(
    source: Path,
    *files: tuple[str, int],
    directory: str = "",
    since_ns: int = LATER,
    change: Callable[[Copier], None] = lambda _: None,
    umask: int = 0o022,
) -> copy_files.Findings:
    copier = Copier(str(source), str(source.with_name("target")), since_ns=since_ns, umask=umask)
    change(copier)
    try:
        copier.copy(directory, files)
    finally:
        copier.close()
    return copier.findings


def exceptions(found: copy_files.Findings) -> dict[str, object]:
    return {name: value for name, value in vars(found).items() if value and name not in ("files", "bytes", "copied")}


# -- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("become", "before", "after"),
    [
        (ANY, 0o600, 0o644),
        (ANY, 0o700, 0o755),
        (ANY, 0o611, 0o644),
        (REGULAR, 0o755, 0o644),
        (EXECUTABLE, 0o600, 0o755),
        (OBJECT, 0o755, 0o444),
        (SAME, 0o604, 0o604),
    ],
)
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000, 0o777])
@pytest.mark.parametrize("wanted", [0o022, 0])
def test_modes_are_those_of_the_wanted_umask_whatever_the_process_has(
    source: Path, target: Path, become: int, before: int, after: int, umask: int, wanted: int
) -> None:
    (source / "a").mkdir()
    (source / "a/file").write_text("x")
    (source / "a/file").chmod(before)
    mask = os.umask(umask)
    try:
        found = copied(source, ("file", become), directory="a", umask=wanted)
    finally:
        os.umask(mask)
    expected = after if wanted or become in (OBJECT, SAME) else {0o644: 0o666, 0o755: 0o777}[after]
    assert stat.S_IMODE((target / "a/file").stat().st_mode) == expected
    assert stat.S_IMODE((target / "a").stat().st_mode) == (0o777 & ~wanted)
    assert (found.files, found.bytes, exceptions(found)) == (1, 1, {})


def test_times_and_content_are_the_sources(source: Path, target: Path) -> None:
    (source / "a" / "b").mkdir(parents=True)
    for name, size in (("empty", 0), ("small", 3), ("large", (1 << 20) + 7)):
        (source / "a" / "b" / name).write_bytes(os.urandom(size))
        os.utime(source / "a" / "b" / name, ns=(1_000_000_007, 2_000_000_009))
    found = copied(source, *[(name, ANY) for name in ("empty", "large", "small")], directory="a/b")
    for name in ("empty", "small", "large"):
        there = target / "a" / "b" / name
        assert there.read_bytes() == (source / "a" / "b" / name).read_bytes()
        assert there.stat().st_mtime_ns == 2_000_000_009
    assert (found.files, found.bytes) == (3, (1 << 20) + 10)
    assert stat.S_IMODE((target / "a" / "b").stat().st_mode) == 0o755
    assert exceptions(found) == {}


def test_holes_stay_holes(source: Path, target: Path) -> None:
    with (source / "sparse").open("wb") as file:
        file.truncate(8 << 20)
        file.seek(3 << 20)
        file.write(b"data")
        file.seek(5 << 20)
        file.write(b"more")
    found = copied(source, ("sparse", ANY))
    assert (target / "sparse").read_bytes() == (source / "sparse").read_bytes()
    assert (target / "sparse").stat().st_blocks == (source / "sparse").stat().st_blocks < 8 << 11
    assert found.bytes == 8 << 20


@pytest.mark.parametrize("after", [0, 1])
def test_holes_are_zeros_where_nobody_tells_them(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    with (source / "sparse").open("wb") as file:
        for number in range(3):
            file.seek(number << 20)
            file.write(b"data" * 1024)
        file.truncate(4 << 20)
    lseek, asked = os.lseek, []

    def without_holes(descriptor: int, position: int, how: int) -> int:
        if how == os.SEEK_DATA:
            asked.append(position)
            if len(asked) > after:
                raise OSError(errno.EINVAL, "not here")
        return lseek(descriptor, position, how)

    monkeypatch.setattr(os, "lseek", without_holes)
    found = copied(source, ("sparse", REGULAR))
    assert (found.files, exceptions(found)) == (1, {})
    assert len(asked) == after + 1
    assert (target / "sparse").read_bytes() == (source / "sparse").read_bytes()


def test_a_file_that_comes_between_two_looks_is_copied(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "file").write_text("here")
    opening, missed = os.open, []

    def too_early(path: str, *given: int, **named: int) -> int:
        if path == "file" and not missed:
            missed.append(path)
            raise OSError(errno.ENOENT, "not yet")
        return opening(path, *given, **named)

    monkeypatch.setattr(os, "open", too_early)
    found = copied(source, ("file", REGULAR))
    assert missed
    assert (target / "file").read_text() == "here"
    assert (found.files, exceptions(found)) == (1, {})


@pytest.mark.parametrize("become", [ANY, REGULAR, LINK])
def test_a_link_becomes_a_link_with_its_time(source: Path, target: Path, become: int) -> None:
    (source / "link").symlink_to("no/where")
    os.utime(source / "link", ns=(7, 7_000_000_000), follow_symlinks=False)
    found = copied(source, ("link", become))
    assert (target / "link").readlink() == Path("no/where")
    assert (target / "link").lstat().st_mtime_ns == 7_000_000_000
    assert (found.files, found.bytes, exceptions(found)) == (1, len("no/where"), {})


def test_a_plain_file_that_stands_for_a_link_becomes_one(source: Path, target: Path) -> None:
    (source / "link").write_text("no/where")
    (source / "none").write_text("")
    (source / "nul").write_bytes(b"a\0b")
    (source / "long").write_text("x" * 4096)
    (source / "longest").write_text("x" * 4095)
    found = copied(source, *[(name, LINK_FROM_FILE) for name in ("link", "none", "nul", "long", "longest")])
    assert (target / "link").readlink() == Path("no/where")
    assert found.no_links == ["none", "nul", "long"]
    assert (target / "longest").is_symlink()
    assert found.recent == ["link", "longest"], "its facts are not those of a link"


# -- what is reported -------------------------------------------------------------------------------------------------


def test_what_is_no_file_is_reported(source: Path, target: Path) -> None:
    (source / "directory").mkdir()
    os.mkfifo(source / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(source / "socket"))
    names = ("directory", "fifo", "gone", "socket")
    found = copied(source, *[(name, ANY) for name in names])
    assert found.absent == ["directory", "fifo", "gone", "socket"]
    assert found.directories == ["directory"]
    assert [(path, stat.S_IFMT(mode)) for path, mode in found.special] == [
        ("fifo", stat.S_IFIFO),
        ("socket", stat.S_IFSOCK),
    ]
    assert list(target.iterdir()) == []
    assert found.files == 0


def test_a_directory_that_is_missing_or_no_directory_has_no_files(source: Path, target: Path) -> None:
    (source / "file").write_text("x")
    (source / "link").symlink_to(".")
    copier = Copier(str(source), str(target), since_ns=LATER)
    for directory in ("gone", "file", "link"):
        copier.copy(directory, [("a", ANY), ("b", ANY)])
    copier.close()
    assert copier.findings.absent == [f"{directory}/{name}" for directory in ("gone", "file", "link") for name in "ab"]
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("directory", ["a/../b", "a/./b", "a//b", "/a"])
def test_a_path_that_could_lead_elsewhere_by_its_text_ends_the_copy(source: Path, directory: str) -> None:
    (source / "a").mkdir()
    (source / "b").mkdir()
    with pytest.raises(copy_files.WriteFailed) as error:
        copied(source, ("file", ANY), directory=directory)
    assert error.value.args == (directory, errno.EINVAL)


def test_directories_are_entered_from_the_one_before(source: Path, target: Path) -> None:
    paths = ("a/b/c", "a/b2", "a", "", "ab")
    copier = Copier(str(source), str(target), since_ns=LATER)
    before = len(open_below(source.parent))
    for path in paths:
        (source / path).mkdir(parents=True, exist_ok=True)
        (source / path / "file").write_text(path)
        copier.copy(path, [("file", ANY)])
    assert len(open_below(source.parent)) <= before + 2
    copier.close()
    assert open_below(source.parent) == []
    assert {path: (target / path / "file").read_text() for path in paths} == {path: path for path in paths}


def test_files_that_can_not_be_read_are_reported_with_the_reason(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "denied").write_text("x")
    (source / "fine").write_text("x")
    opening = os.open

    def refusing(path: str, *arguments: int, **named: int) -> int:
        if path == "denied" and named.get("dir_fd") is not None:
            raise PermissionError(errno.EACCES, "no")
        return opening(path, *arguments, **named)

    monkeypatch.setattr(os, "open", refusing)
    found = copied(source, ("denied", ANY), ("fine", ANY))
    assert found.denied == [("denied", errno.EACCES)]
    assert found.files == 1


def test_a_directory_that_can_not_be_entered_denies_its_files(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source / "closed").mkdir()
    opening = os.open

    def refusing(path: str, *arguments: int, **named: int) -> int:
        if path == "closed":
            raise PermissionError(errno.EPERM, "no")
        return opening(path, *arguments, **named)

    monkeypatch.setattr(os, "open", refusing)
    assert copied(source, ("a", ANY), ("b", ANY), directory="closed").denied == [
        ("closed/a", errno.EPERM),
        ("closed/b", errno.EPERM),
    ]


def test_a_target_that_can_not_be_written_ends_the_copy(source: Path, target: Path) -> None:
    (source / "file").write_text("x")

    def failing(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(copy_files.WriteFailed) as error:
        copied(source, ("file", ANY), change=lambda copier: setattr(copier, "_move", failing))
    assert error.value.args == ("file", errno.ENOSPC)


def test_a_file_in_the_way_of_a_directory_counts_as_absent(source: Path, target: Path) -> None:
    (source / "a").mkdir()
    (source / "a" / "file").write_text("x")
    (target / "a").write_text("in the way")
    assert copied(source, ("file", ANY), directory="a").absent == ["a/file"]
    (target / "here").mkdir()
    (source / "here").write_text("x")
    assert copied(source, ("here", ANY)).absent == ["here"]
    (source / "link").symlink_to("x")
    (target / "link").write_text("x")
    assert copied(source, ("link", LINK)).absent == ["link"]


# -- a source that changes --------------------------------------------------------------------------------------------


def tick(directory: Path) -> None:
    """Wait until a change has a later time than those before."""
    before = directory.stat().st_ctime_ns
    while directory.stat().st_ctime_ns < before + 20_000_000:  # the kernel's clock for files is that coarse
        directory.chmod(0o755)


def test_files_that_changed_after_the_copy_began_are_recent(source: Path) -> None:
    (source / "old").write_text("x")
    tick(source)
    (source / "link").symlink_to("x")
    since = (source / "link").lstat().st_ctime_ns
    assert copied(source, ("old", ANY), ("link", LINK), since_ns=since + 1).recent == []
    assert copied_again(source, since).recent == ["link"]
    tick(source)
    (source / "old").chmod(0o600)
    os.utime(source / "old", ns=(5, 5))
    assert copied_again(source, since + 1).recent == ["old"], "the time of its content is an old one"


def copied_again(source: Path, since_ns: int) -> copy_files.Findings:
    for path in source.with_name("target").iterdir():
        path.unlink()
    return copied(source, ("old", ANY), ("link", LINK), since_ns=since_ns)


def test_all_files_below_a_directory_that_changed_are_recent(source: Path) -> None:
    (source / "new" / "below").mkdir(parents=True)
    (source / "new" / "below" / "file").write_text("x")
    (source / "new" / "below" / "link").symlink_to("x")
    (source / "new" / "below" / "instead").symlink_to("x")
    tick(source)
    (source / "new" / "swapped").mkdir()
    since = (source / "new").stat().st_ctime_ns
    assert (source / "new" / "below").stat().st_ctime_ns < since
    found = copied(source, ("file", ANY), ("link", LINK), ("instead", REGULAR), directory="new/below", since_ns=since)
    assert found.recent == ["new/below/file", "new/below/link", "new/below/instead"]


class Changing:
    """A copy during which the source changes so many times."""

    def __init__(self, times: int, change: Callable[[], None]) -> None:
        self.times, self.change = times, change
        self.attempts = 0

    def __call__(self, copier: Copier) -> None:
        move = copier._move

        def moving(*arguments: object) -> int:
            self.attempts += 1
            size = move(*arguments)  # type: ignore[arg-type]
            if self.attempts <= self.times:
                self.change()
            return size

        copier._move = moving  # type: ignore[assignment]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    asked: list[float] = []
    monkeypatch.setattr(time, "sleep", asked.append)
    return asked


def test_a_file_that_grows_meanwhile_is_copied_again(source: Path, target: Path, pauses: list[float]) -> None:
    file = source / "file"
    file.write_text("first")
    changing = Changing(1, lambda: file.write_text("second and longer") and None)
    found = copied(source, ("file", ANY), change=changing)
    assert (target / "file").read_text() == "second and longer"
    assert (changing.attempts, found.unstable, found.bytes) == (2, [], len("second and longer"))
    assert pauses == [0.005]


@pytest.mark.parametrize("way", [copy_files._kernel_copy, copy_files._read_write])
@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("lefts", [[0], [3], [9, 6, 3]])
def test_a_file_that_shrinks_meanwhile_is_copied_again(
    source: Path,
    target: Path,
    pauses: list[float],
    monkeypatch: pytest.MonkeyPatch,
    way: Callable[..., int],
    holes: bool,
    lefts: list[int],
) -> None:
    monkeypatch.setattr(copy_files, "_SPARSE_FROM", 1)
    file = source / "file"
    file.write_bytes(b"content" * 9999)
    if holes:
        os.truncate(file, 1 << 20)
    rest = iter(lefts)

    def shrinking(copier: Copier, reading: int, writing: int, size: int) -> int:
        if (left := next(rest, None)) is not None:
            os.truncate(file, left)
        return way(copier, reading, writing, size)

    found = copied(source, ("file", ANY), change=lambda copier: setattr(copier, "_move", shrinking))
    assert (target / "file").read_bytes() == (b"content" * 2)[: lefts[-1]]
    unstable = {"unstable": ["file"]} if len(lefts) == ATTEMPTS else {}
    assert (found.files, found.bytes, exceptions(found)) == (1, lefts[-1], unstable)
    assert len(pauses) == min(len(lefts), ATTEMPTS - 1)


def test_a_sparse_file_that_shrinks_and_grows_is_what_was_read_of_it(
    source: Path, target: Path, pauses: list[float]
) -> None:
    file = source / "file"
    with file.open("wb") as writing:
        writing.seek(1 << 20)
        writing.write(b"content" * 9999)

    def shrinking(copier: Copier, reading: int, writing: int, size: int) -> int:
        os.truncate(file, (1 << 20) + 3)
        moved = copy_files._kernel_copy(copier, reading, writing, size)
        os.truncate(file, 2 << 20)
        return moved

    found = copied(source, ("file", ANY), change=lambda copier: setattr(copier, "_move", shrinking))
    assert (target / "file").read_bytes() == bytes(1 << 20) + b"con"
    assert (found.bytes, exceptions(found)) == ((1 << 20) + 3, {"unstable": ["file"]})


@pytest.mark.parametrize("what", ["mtime", "ctime"])
def test_a_change_of_the_same_size_is_noticed_by_its_times(
    source: Path, target: Path, pauses: list[float], what: str
) -> None:
    file = source / "file"
    file.write_text("one")
    os.utime(file, ns=(5, 5))

    def change() -> None:
        before = file.stat().st_ctime_ns
        file.write_text("two")
        if what == "ctime":
            os.utime(file, ns=(5, 5))  # only the kernel's own time tells
        while file.stat().st_ctime_ns == before:
            file.chmod(0o644)

    found = copied(source, ("file", ANY), change=Changing(1, change))
    assert (target / "file").read_text() == "two"
    assert found.unstable == []


def test_a_file_that_never_rests_is_unstable(source: Path, target: Path, pauses: list[float]) -> None:
    file = source / "file"
    file.write_text("x")
    changing = Changing(99, lambda: file.write_text(file.read_text() + "x") and None)
    found = copied(source, ("file", ANY), change=changing)
    assert (found.unstable, found.files, changing.attempts) == (["file"], 1, ATTEMPTS)
    assert (target / "file").read_text() == "xxx"
    assert pauses == [0.005, 0.01]


@pytest.mark.parametrize("becomes", ["nothing", "a directory"])
def test_a_file_that_goes_away_meanwhile_leaves_nothing(
    source: Path, target: Path, pauses: list[float], becomes: str
) -> None:
    file = source / "file"
    file.write_text("x")

    def change() -> None:
        file.write_text("xx")
        file.unlink()
        if becomes == "a directory":
            file.mkdir()

    found = copied(source, ("file", ANY), change=Changing(1, change))
    # The file was open: what was read of it does not fit what it had become.
    assert found.absent == ["file"]
    assert found.directories == (["file"] if becomes == "a directory" else [])
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("way", [copy_files._kernel_copy, copy_files._read_write])
def test_a_stopped_copy_ends_within_a_file(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, way: Callable[..., int]
) -> None:
    (source / "file").write_bytes(bytes(1 << 10))
    monkeypatch.setattr(copy_files, "_CHUNK", 1 << 8)

    def stopping(copier: Copier) -> None:
        copier.stop = lambda: True
        copier._move = way  # type: ignore[assignment]

    with pytest.raises(copy_files.Stopped):
        copied(source, ("file", ANY), change=stopping)
    assert (target / "file").stat().st_size <= 1 << 8


@pytest.mark.parametrize("status", [b"", b"Name:\tx\nUmask:\tno\n", None])
def test_the_umask_is_read_and_unknown_where_nobody_tells_it(
    monkeypatch: pytest.MonkeyPatch, status: bytes | None
) -> None:
    def opened(*_: object) -> io.BytesIO:
        if status is None:
            raise FileNotFoundError
        return io.BytesIO(status)

    mask = os.umask(0o027)
    try:
        assert copy_files.umask_here() == 0o027
    finally:
        os.umask(mask)
    monkeypatch.setattr(copy_files, "open", opened, raising=False)
    assert copy_files.umask_here() == 0o777


# -- ways to move bytes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refused", [errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM])
def test_where_the_kernel_can_not_another_way_is_taken(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, refused: int
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(refused, "no")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    content = os.urandom((2 << 20) + 5)
    (source / "file").write_bytes(content)
    (source / "second").write_bytes(b"x")
    moves: list[object] = []
    copier = Copier(str(source), str(target), since_ns=LATER)
    copier.copy("", [("file", ANY), ("second", ANY)])
    moves.append(copier._move)
    copier.close()
    assert (target / "file").read_bytes() == content
    assert (target / "second").read_bytes() == b"x"
    assert moves == [copy_files._read_write]


@pytest.mark.parametrize("refusing", [None, "copy_file_range"])
@pytest.mark.parametrize("way", [copy_files._kernel_copy, copy_files._read_write])
def test_as_much_is_copied_as_is_asked_for_though_the_way_changes_within_a_file(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, way: Callable[..., int], refusing: str | None
) -> None:
    (source / "file").write_bytes(b"0123456789" * 9)
    monkeypatch.setattr(copy_files, "_CHUNK", 4)
    if refusing is not None:
        real, calls = getattr(os, refusing), []

        def once(*given: object) -> int:
            calls.append(given)
            if len(calls) > 1:
                raise OSError(errno.EXDEV, "no")
            return int(real(*given))

        monkeypatch.setattr(os, refusing, once)
    copier = Copier(str(source), str(target), since_ns=LATER)
    with (source / "file").open("rb") as reading, (target / "file").open("wb") as writing:
        assert way(copier, reading.fileno(), writing.fileno(), 10) == 10
        assert way(copier, reading.fileno(), writing.fileno(), 0) == 0
    copier.close()
    assert (target / "file").read_bytes() == b"0123456789"


def test_another_error_of_the_kernel_is_one_of_writing(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    (source / "file").write_bytes(b"x")
    with pytest.raises(copy_files.WriteFailed) as error:
        copied(source, ("file", ANY))
    assert error.value.args == ("file", errno.EIO)


def test_a_file_system_that_returns_nothing_is_read(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "copy_file_range", lambda *_: 0)
    (source / "file").write_bytes(b"content")
    assert copied(source, ("file", ANY)).bytes == 7
    assert (target / "file").read_bytes() == b"content"


def test_a_file_that_can_not_be_read_to_its_end_is_denied(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> bytes:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(os, "read", broken)
    (source / "file").write_bytes(b"content")
    found = copied(source, ("file", ANY), change=lambda copier: setattr(copier, "_move", copy_files._read_write))
    assert found.denied == [("file", errno.EIO)]


# -- several copiers --------------------------------------------------------------------------------------------------


def test_portions_divide_files() -> None:
    files = [("a/1", 0), ("a/2", 1), ("a/3", 0), ("b/1", 0), ("c", 2)]
    found = list(copy_files.portions(files, 2))
    assert found == [
        [("a", [("1", 0), ("2", 1)])],
        [("a", [("3", 0)]), ("b", [("1", 0)])],
        [("", [("c", 2)])],
    ]
    assert list(copy_files.portions([], 9)) == []


def test_values_go_through_a_pipe_until_it_ends() -> None:
    stream = io.BytesIO()
    for value in (("a", 1), None, [b"x" * 70_000]):
        copy_files.send(stream, value)
    whole = stream.getvalue()
    reading = io.BytesIO(whole)
    assert [copy_files.receive(reading) for _ in range(4)] == [("a", 1), None, [b"x" * 70_000], None]
    assert copy_files.receive(io.BytesIO(whole[:3])) is None
    assert copy_files.receive(io.BytesIO(whole[:6])) is None


def test_findings_add_up() -> None:
    first, second = copy_files.Findings(), copy_files.Findings()
    first.files, first.absent = 2, ["a"]
    second.files, second.absent, second.denied = 3, ["b"], [("c", 1)]
    first.add(vars(second))
    assert (first.files, first.absent, first.denied) == (5, ["a", "b"], [("c", 1)])


def test_a_helper_copies_what_it_is_sent_and_ends_with_its_input(source: Path, target: Path) -> None:
    (source / "a").mkdir()
    for name in ("a/1", "a/2", "b"):
        (source / name).write_text(name)
    program = str(Path(copy_files.__file__).parent)
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", copy_workers._HELPER, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as helper:
        assert helper.stdin is not None
        assert helper.stdout is not None
        copy_files.send(helper.stdin, (str(source), str(target), LATER, 0o027))
        answers = []
        for portion in ([("a", [("1", ANY), ("2", ANY)])], [("", [("b", ANY), ("c", ANY)])]):
            copy_files.send(helper.stdin, portion)
            answers.append(copy_files.receive(helper.stdout))
        (target / "failing").write_text("x")
        helper.stdin.close()
        assert helper.wait(60) == 0
    assert [(answer["files"], answer["absent"]) for answer in answers] == [(2, []), (1, ["c"])]
    assert (target / "a" / "2").read_text() == "a/2"
    assert (target / "a" / "2").stat().st_mode & 0o777 == 0o640


def test_a_helper_tells_what_it_could_not_write_and_goes_on(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "file").write_text("x")
    told, heard = io.BytesIO(), io.BytesIO()
    portion = [("", [("file", ANY), ("gone", ANY)])]
    for value in ((str(source), str(target), 0, 0o022), [("..", [("a", ANY)])], portion):
        copy_files.send(told, value)
    told.seek(0)
    for closed in (told, io.BytesIO()):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(closed))
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(heard))
        copy_files.main()
    heard.seek(0)
    failed, found, end = (copy_files.receive(heard) for _ in range(3))
    assert (failed, end) == ({"failed": ("..", errno.EINVAL)}, None)
    assert (found["files"], found["absent"], found["recent"]) == (1, ["gone"], ["file"])

    def gone(*_: object) -> None:
        raise BrokenPipeError

    told.seek(0)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(told))
    monkeypatch.setattr(copy_files, "send", gone)
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit, match=r"^1$"):
        copy_files.main()


@pytest.mark.parametrize(("processors", "wanted"), [(1, 0), (2, 1), (3, 2), (4, 3), (9, 3)])
def test_helpers_are_as_many_as_there_are_other_processors(
    source: Path, target: Path, helpers: None, monkeypatch: pytest.MonkeyPatch, processors: int, wanted: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)))
    with copy_workers.CopyPool(source, target, since_ns=LATER, cancel=Cancel()) as pool:
        pool.prepare(copy_workers.HELPERS_FROM_FILES)
        pool.prepare(copy_workers.HELPERS_FROM_FILES)
        started = pool._helpers
        # Neither the environment nor packages of the user decide what they run.
        assert [list(helper.args)[:4] for helper in started] == [[sys.executable, "-I", "-S", "-c"]] * wanted  # type: ignore[arg-type]
    assert [helper.returncode for helper in started] == [0] * wanted
    assert all(pipe.closed for helper in started for pipe in (helper.stdin, helper.stdout) if pipe is not None)
    assert open_below(source.parent) == []


@pytest.mark.parametrize("lacking", [(sys, "executable", ""), (copy_files, "__file__", "/nonexistent/copy_files.py")])
def test_there_are_no_helpers_where_none_can_be_started(
    source: Path, target: Path, helpers: None, monkeypatch: pytest.MonkeyPatch, lacking: tuple[object, str, str]
) -> None:
    monkeypatch.setattr(*lacking)
    with copy_workers.CopyPool(source, target, since_ns=LATER, cancel=Cancel()) as pool:
        pool.prepare(copy_workers.HELPERS_FROM_FILES)
        assert pool._helpers == []


@pytest.mark.parametrize("why", ["canceled", "failed"])
def test_a_copy_stops_within_a_file(source: Path, target: Path, why: str) -> None:
    cancel = Cancel()
    with copy_workers.CopyPool(source, target, since_ns=LATER, cancel=cancel) as pool:
        assert pool._own.stop is not None
        assert not pool._own.stop()
        if why == "canceled":
            cancel.request()
        else:
            pool._failed.set()
        assert pool._own.stop()


def test_a_copy_ends_when_its_helpers_have(
    source: Path, target: Path, helpers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each helper answers as late as it can: when this thread has nothing left to copy."""
    files, receive, last = many(source), copy_files.receive, threading.Event()
    moved: list[int] = []

    def late(stream: io.BytesIO) -> object:
        assert last.wait(60)
        return receive(stream)

    monkeypatch.setattr(copy_files, "receive", late)
    with copy_workers.CopyPool(source, target, since_ns=LATER, cancel=Cancel()) as pool:

        def moving(copier: Copier, reading: int, writing: int, size: int) -> int:
            moved.append(size)
            if len(moved) == 30 - 2 * 3:
                last.set()
            return copy_files._kernel_copy(copier, reading, writing, size)

        pool._own._move = moving
        assert pool.copy(files, about=30).files == 30


@pytest.fixture
def helpers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Copies of a few files have helpers, on any machine."""
    monkeypatch.setattr(copy_workers, "HELPERS_FROM_FILES", 10)
    monkeypatch.setattr(copy_workers, "_PORTION", (3, 5))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    return


def many(source: Path, count: int = 30) -> list[tuple[str, int]]:
    files = [(f"{number % 4}/{number:03}", ANY) for number in range(count)]
    for path, _ in files:
        (source / path).parent.mkdir(exist_ok=True)
        (source / path).write_text(path)
    return sorted(files)


def test_helpers_and_this_thread_copy_all_files_once(source: Path, target: Path, helpers: None) -> None:
    files = [*many(source), ("4/gone", ANY)]
    portions: list[int] = []
    with copy_workers.CopyPool(source, target, since_ns=LATER, cancel=Cancel()) as pool:
        pool.prepare(9)
        assert pool._helpers == []
        found = pool.copy(files, about=31, on_portion=portions.append)
        assert len(pool._helpers) == 2
        ended = pool._helpers
    assert [helper.returncode for helper in ended] == [0, 0]
    assert (found.files, found.absent) == (30, ["4/gone"])
    assert portions == sorted(portions)
    assert portions[-1] == 30
    assert len(portions) >= 7
    assert sorted(str(path.relative_to(target)) for path in target.glob("*/*")) == [path for path, _ in files[:-1]]


def test_a_copier_of_its_own_copies_alone(source: Path, target: Path, helpers: None) -> None:
    own = Copier(str(source), str(target), since_ns=LATER)
    with copy_workers.CopyPool(source, target, since_ns=LATER, cancel=Cancel(), own=own) as pool:
        assert pool.copy(many(source), about=30).files == 30
        assert pool._helpers == []


def test_a_canceled_copy_says_so_and_ends_its_helpers(source: Path, target: Path, helpers: None) -> None:
    cancel = Cancel()
    files = many(source)
    with copy_workers.CopyPool(source, target, since_ns=LATER, cancel=cancel) as pool:
        pool.prepare(100)
        ended = pool._helpers
        cancel.request()
        with pytest.raises(SnapshotCanceled):
            pool.copy(files, about=30)
    assert all(helper.returncode is not None for helper in ended)
    assert not [*target.iterdir()], "nothing is copied after the request"


def test_a_helper_that_is_lost_is_an_error_of_the_snapshot(source: Path, target: Path, helpers: None) -> None:
    with copy_workers.CopyPool(source, target, since_ns=LATER, cancel=Cancel()) as pool:
        pool.prepare(100)
        for helper in pool._helpers:
            helper.kill()
            helper.wait()
        with pytest.raises((SnapshotError, OSError)):
            pool.copy(many(source, 200), about=200)


def test_a_failure_in_this_thread_ends_the_copy(
    source: Path, target: Path, helpers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, receive, asked = many(source), copy_files.receive, []

    def failing(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    with copy_workers.CopyPool(source, target, since_ns=LATER, cancel=Cancel()) as pool:

        def late(stream: io.BytesIO) -> object:
            asked.append(stream)
            assert pool._failed.wait(60)
            return receive(stream)

        monkeypatch.setattr(copy_files, "receive", late)
        pool._own._move = failing
        with pytest.raises(SnapshotError) as error:
            pool.copy(files, about=30)
        assert all(helper.returncode is not None for helper in pool._helpers)
    assert error.value.code == "WORKSPACE_NOT_WRITTEN"
    assert len(asked) <= 2, "a helper gets nothing more to do"


@pytest.mark.parametrize(
    ("answer", "code", "why"),
    [
        ({"failed": ("a/b", errno.ENOSPC)}, "WORKSPACE_NOT_WRITTEN", "a/b: No space left"),
        (None, "COPY_HELPER_LOST", "a copying process ended without an answer"),
    ],
)
def test_a_failure_in_a_helper_ends_the_copy(
    source: Path,
    target: Path,
    helpers: None,
    monkeypatch: pytest.MonkeyPatch,
    answer: object,
    code: str,
    why: str,
) -> None:
    files, moved = many(source), []
    monkeypatch.setattr(copy_files, "receive", lambda _: answer)
    with copy_workers.CopyPool(source, target, since_ns=LATER, cancel=Cancel()) as pool:

        def moving(*_: object) -> int:
            moved.append(pool._failed.wait(60))
            return 0

        pool._own._move = moving
        with pytest.raises(SnapshotError) as error:
            pool.copy(files, about=30)
    assert (error.value.code, why in str(error.value)) == (code, True)
    assert all(moved)
    assert len(moved) <= 3 * ATTEMPTS, "this thread ends its portion of three files"


def test_helpers_of_a_copy_that_fails_are_ended_and_do_not_go_on(tmp_path: Path) -> None:
    pool = copy_workers.CopyPool(tmp_path, tmp_path, since_ns=0, cancel=Cancel())
    pool.prepare(copy_workers.HELPERS_FROM_FILES)
    pool.__exit__(KeyError, KeyError(), None)
    assert all(helper.returncode < 0 for helper in pool._helpers)


def test_the_hint_of_a_failed_write_is_for_its_reason() -> None:
    full = "free some space there, or name another disk with LOOM_TMP_DIR"
    for number, hint in (
        (errno.ENOSPC, full),
        (errno.EDQUOT, full),
        (errno.EROFS, "check its permissions"),
        (errno.EACCES, "check its permissions"),
    ):
        error = copy_workers.could_not_write(Path("/w"), copy_files.WriteFailed("a/b", number))
        assert str(error) == f"/w: the workspace could not be written: a/b: {os.strerror(number)}\n{hint}"
        assert error.code == "WORKSPACE_NOT_WRITTEN"
