"""File systems that share blocks between copies: nothing is copied there, and nothing shared that is written."""

import array
import fcntl
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from loom.cancel import Cancel
from loom.snapshot import discover, take, verify

from .conftest import ENVIRONMENT, Repo, check

pytestmark = pytest.mark.slow

_FIEMAP = 0xC020660B
_FLAG_SYNC = 1
_SHARED = 0x2000
_HEADER = struct.Struct("=QQIIII")
_EXTENT = struct.Struct("=QQQQQIIII")


def shared_bytes(path: Path) -> int:
    """How many of a file's bytes lie in blocks that another file has too."""
    count = 64
    asked = array.array("B", _HEADER.pack(0, (1 << 64) - 1, _FLAG_SYNC, 0, count, 0) + bytes(count * _EXTENT.size))
    with path.open("rb") as file:
        fcntl.ioctl(file.fileno(), _FIEMAP, asked)
    found = _HEADER.unpack_from(asked)[3]
    extents = [_EXTENT.unpack_from(asked, _HEADER.size + number * _EXTENT.size) for number in range(found)]
    return sum(extent[2] for extent in extents if extent[5] & _SHARED)


@pytest.mark.parametrize(("kind", "megabytes"), [("xfs", 320), ("btrfs", 160)])
def test_a_snapshot_shares_blocks_where_the_file_system_can(
    make_file_system: Callable[[str, int], Path], kind: str, megabytes: int
) -> None:
    place = make_file_system(kind, megabytes)
    (place / "source").mkdir()
    repo = Repo(place / "source")
    repo.git("init", "-q")
    noise = random.Random(7).randbytes(4 << 20)
    repo.write("big", noise)
    repo.write("small", "s\n")
    repo.commit()
    repo.git("repack", "-adq")
    repo.write("untracked", noise[::-1])
    repo.write("with holes", b"").write_bytes(b"")
    with (repo.root / "with holes").open("r+b") as file:
        file.write(noise[: 1 << 20])
        file.truncate(32 << 20)
        file.seek(0, os.SEEK_END)
        file.write(noise[: 1 << 20])
    workspace = place / "workspace"
    workspace.mkdir()
    snapshot = take(discover(repo.root, environ=ENVIRONMENT), workspace, cancel=Cancel())
    check(repo, snapshot)
    (pack,) = (workspace / ".git/objects/pack").glob("*.pack")
    for path, size in ((pack, 4 << 20), (workspace / "big", 4 << 20), (workspace / "untracked", 4 << 20)):
        assert shared_bytes(path) >= size, path
    assert shared_bytes(workspace / "with holes") == 2 << 20
    assert (workspace / "with holes").stat().st_blocks * 512 <= 4 << 20
    # A job's writes are its own.
    with (workspace / "big").open("r+b") as file:
        file.write(b"written by a job")
    assert (repo.root / "big").read_bytes() == noise
    verified = verify(workspace, environ=ENVIRONMENT)
    assert [(change.path, change.kind) for change in verified.changes] == [("big", "modified")]
