"""Very many files, and very large ones: minutes on a busy machine, so only with LOOM_TEST_SIZES=1."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from loom.snapshot import Snapshot

from .conftest import Repo

Snap = Callable[[Repo], Snapshot]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("LOOM_TEST_SIZES" not in os.environ, reason="takes minutes: set LOOM_TEST_SIZES=1"),
]


def test_a_hundred_thousand_untracked_files(repo: Repo, snap: Snap) -> None:
    repo.git("commit", "-q", "--allow-empty", "-m", "start")
    for directory in range(100):
        (repo.root / f"new/{directory}").mkdir(parents=True)
        for number in range(1000):
            (repo.root / f"new/{directory}/{number}").touch()
    snapshot = snap(repo)
    assert sum(len(list(directory.iterdir())) for directory in (snapshot.path / "new").iterdir()) == 100_000
    assert len(snapshot.changed) == 100_000


def test_a_sparse_file_of_several_gigabytes_takes_no_more_room_than_it_had(repo: Repo, snap: Snap) -> None:
    repo.git("commit", "-q", "--allow-empty", "-m", "start")
    size = 3 << 30
    with (repo.root / "huge").open("wb") as file:
        file.write(b"begin")
        file.seek(size - 3)
        file.write(b"end")
    snapshot = snap(repo)
    status = (snapshot.path / "huge").stat()
    assert status.st_size == size
    assert status.st_blocks * 512 < 64 << 20
    with (snapshot.path / "huge").open("rb") as file:
        assert file.read(5) == b"begin"
        file.seek(size - 3)
        assert file.read() == b"end"
