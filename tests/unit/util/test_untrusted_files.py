"""Files that somebody else may have put there: opened without blocking, links and surprises in size."""

import errno
import os
from pathlib import Path

import pytest

from loom.util import untrusted_files


def test_only_a_regular_file_is_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "fifo")
    assert untrusted_files.read_regular(tmp_path / "file") == b"content"
    before = len(os.listdir("/proc/self/fd"))
    for name in ("link", "fifo", ".", "missing"):
        with pytest.raises(OSError):
            untrusted_files.open_regular(tmp_path / name)
    assert len(os.listdir("/proc/self/fd")) == before


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
