"""What is written or read is counted and hashed, and said as `sha256sum` says it."""

import hashlib
import io
import subprocess
from pathlib import Path

import pytest

from loom.storage.packing import _rereadable
from loom.util.digests import Hashed, digest_line


def test_bytes_are_hashed_either_way() -> None:
    file = io.BytesIO()
    written = Hashed(file)
    assert [written.write(data) for data in (b"one", b"", b"two!")] == [3, 0, 4]
    read = Hashed(io.BytesIO(file.getvalue()))
    assert (read.read(2), read.read()) == (b"on", b"etwo!")
    assert read.size == written.size == 7
    assert read.digest.hexdigest() == written.digest.hexdigest() == hashlib.sha256(b"onetwo!").hexdigest()


def test_what_is_flushed_is_in_the_file() -> None:
    file = io.BytesIO()
    written = Hashed(io.BufferedWriter(file))  # type: ignore[arg-type]
    written.write(b"x")
    assert file.getvalue() == b""
    written.flush()
    assert file.getvalue() == b"x"


def test_only_what_can_not_be_read_twice_is_copied(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with (tmp_path / "file").open("rb", buffering=0) as file, _rereadable(file, lambda: None) as twice:
        assert twice is file
    checks: list[int] = []
    stream = io.BytesIO(b"content")
    with _rereadable(stream, lambda: checks.append(1)) as twice:
        assert twice is not stream
        for _ in range(2):
            assert twice.read() == b"content"
            twice.seek(0)
    assert checks


@pytest.mark.parametrize("name", ["a b", "ü", "\udcff", "a\nb", "a\\b"])
def test_a_line_is_that_of_sha256sum(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    said = subprocess.run(("sha256sum", "--", name), cwd=tmp_path, capture_output=True, check=True).stdout
    line = digest_line(hashlib.sha256(b"x").hexdigest(), name)
    assert line == (b"" if said.startswith(b"\\") else said)
