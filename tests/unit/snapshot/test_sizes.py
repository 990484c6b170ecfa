"""Very many files, and very large ones."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loom.cancel import Cancel
from loom.snapshot import Snapshot, discover, take
from loom.snapshot.copy_files import ANY, Copier
from tests.support.effort import effort

from .conftest import Repo

pytestmark = pytest.mark.slow

Snap = Callable[[Repo], Snapshot]


@pytest.fixture
def quick_place(tmp_path: Path) -> Iterator[Path]:
    """A place where making a file takes no time; what is in it goes at once, and not some runs later."""
    memory = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="loom-test-", dir=memory if os.access(memory, os.W_OK) else tmp_path))
    yield place
    shutil.rmtree(place)


def test_very_many_untracked_files(quick_place: Path) -> None:
    repo = Repo(quick_place / "source")
    repo.root.mkdir()
    repo.git("init", "-q")
    repo.git("commit", "-q", "--allow-empty", "-m", "start")
    directories = effort(20, 100)
    for directory in range(directories):
        (repo.root / f"new/{directory}").mkdir(parents=True)
        for number in range(1000):
            os.close(os.open(f"{repo.root}/new/{directory}/{number}", os.O_CREAT | os.O_WRONLY))
    workspace = quick_place / "workspace"
    workspace.mkdir()
    snapshot = take(discover(repo.root, environ=repo.environ), workspace, cancel=Cancel())
    assert sum(len(os.listdir(directory)) for directory in (workspace / "new").iterdir()) == directories * 1000
    assert len(snapshot.changed) == directories * 1000


def sparse(path: Path, size: int) -> None:
    """A file of that size which holds a few bytes at both ends and nothing between."""
    with path.open("wb") as file:
        file.write(b"begin")
        file.seek(size - 3)
        file.write(b"end")


def is_as_sparse(path: Path, size: int) -> bool:
    status = path.stat()
    with path.open("rb") as file:
        begin = file.read(5)
        file.seek(size - 3)
        return (status.st_size, begin, file.read()) == (size, b"begin", b"end") and status.st_blocks * 512 < 1 << 20


def test_copying_a_file_of_five_gigabytes_of_which_most_is_a_hole(tmp_path: Path) -> None:
    source, target, size = tmp_path / "source", tmp_path / "target", 5 << 30
    source.mkdir()
    target.mkdir()
    sparse(source / "huge", size)
    copier = Copier(str(source), str(target), since_ns=0)
    copier.copy("", [("huge", ANY)])
    copier.close()
    assert (copier.findings.files, copier.findings.bytes) == (1, size)
    assert is_as_sparse(target / "huge", size)


@pytest.mark.parametrize(
    "size",
    [
        # Above what git takes in one piece, which is 512 MiB.
        540_000_000,
        # Above what 32 bits count. Git hashes that in ten seconds, so only the project's CI does (.ci/run).
        pytest.param(
            (4 << 30) + 4096,
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif("LOOM_TEST_SIZES" not in os.environ, reason="takes long: set LOOM_TEST_SIZES=1"),
            ],
        ),
    ],
)
def test_a_sparse_file_takes_no_more_room_than_it_had(repo: Repo, snap: Snap, size: int) -> None:
    repo.git("commit", "-q", "--allow-empty", "-m", "start")
    sparse(repo.root / "huge", size)
    snapshot = snap(repo)
    assert is_as_sparse(snapshot.path / "huge", size)
    expected = hashlib.sha1(b"blob %d\0begin" % size, usedforsecurity=False)
    hole, zeros = size - 8, bytes(1 << 20)
    for start in range(0, hole, len(zeros)):
        expected.update(zeros[: hole - start])
    expected.update(b"end")
    assert snapshot.changed[0].sha == expected.hexdigest()
