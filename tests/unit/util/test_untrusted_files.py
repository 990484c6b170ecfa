"""Files that somebody else may have put there: opened without blocking, links and surprises in size."""

import errno
import os
from pathlib import Path

import pytest

from loom.errors import RequestError
from loom.util import untrusted_files
from loom.util.untrusted_files import open_inside, open_judged
from tests.support.descriptors import open_below


def test_only_a_regular_file_is_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "fifo")
    assert untrusted_files.read_regular(tmp_path / "file") == b"content"
    for name in ("link", "fifo", ".", "missing"):
        with pytest.raises(OSError):
            untrusted_files.open_regular(tmp_path / name)
    assert open_below(tmp_path) == []


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1234")
    assert untrusted_files.read_regular(tmp_path / "file", at_most=4) == b"1234"
    with pytest.raises(OSError) as error:
        untrusted_files.read_regular(tmp_path / "file", at_most=3)
    assert error.value.errno == errno.EFBIG


def test_chunks_are_read_as_a_file() -> None:
    closed = []

    def chunks() -> object:
        try:
            yield from (b"ab", b"", b"cdef")
        finally:
            closed.append(True)

    with untrusted_files.reader(chunks()) as file:  # type: ignore[arg-type]
        assert (file.read(3), file.read()) == (b"abc", b"def")
    assert closed == [True]


def test_only_what_is_inside_after_all_links_is_opened(tmp_path: Path) -> None:
    root, private = tmp_path / "root", tmp_path / "private"
    (root / "folder").mkdir(parents=True)
    private.mkdir()
    (private / "file").write_text("private")
    (root / "folder/file").write_text("own")
    (root / "inner").symlink_to("folder/file")
    (root / "outer").symlink_to(private / "file")
    (root / "away").symlink_to(private)
    for path in (root / "folder/file", root / "inner"):
        with open_inside(path, root) as file:
            assert file.read() == b"own"
    for path in (root / "outer", root / "away/file"):
        with pytest.raises(RequestError, match="points outside the repository") as refused:
            open_inside(path, root)
        assert refused.value.code == "LEADS_OUT"
    for path, around in ((private / "file", root), (root / "outer", None)):
        with open_inside(path, around) as file:
            assert file.read() == b"private"


def test_a_link_that_comes_after_the_judgement_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "folder/file").write_text("own")
    (tmp_path / "file").write_text("private")
    judged = os.path.realpath

    def swapped(path: str | Path) -> str:
        found = judged(path)
        if found.endswith("/file"):
            (root / "folder").rename(root / "aside")
            (root / "folder").symlink_to(tmp_path)
        return found

    monkeypatch.setattr("loom.util.untrusted_files.os.path.realpath", swapped)
    with pytest.raises(NotADirectoryError):
        open_inside(root / "folder/file", root)


def test_nothing_but_a_file_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, said in (("fifo", "not a regular file"), (".", "is a directory"), ("gone", "No such file")):
        with pytest.raises(OSError, match=said):
            open_judged(os.path.realpath(tmp_path / name))
