"""The directory of a build's files: it goes with its loom, however that ends."""

import os
import signal
import tempfile
from pathlib import Path

import pytest

from loom.providers.docker.container.cleanup import scratch, sweep


def killed_with_one(files: int) -> None:
    if (child := os.fork()) == 0:
        with scratch() as folder:
            for number in range(files):
                (folder / str(number)).touch()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)  # no limit: it kills itself


def test_the_next_loom_removes_what_a_killed_one_left_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed_with_one(2)
    (tmp_path / "loom-build-link").symlink_to(tmp_path)
    (tmp_path / "other").mkdir()
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == 3
    with scratch() as mine:
        (mine / "Dockerfile").touch()
        sweep()
        assert {path.name for path in tmp_path.iterdir()} == {mine.name, "loom-build-link", "other"}
    killed_with_one(0)
    sweep()
    (young,) = (path for path in tmp_path.glob("loom-build-*") if not path.is_symlink())
    os.utime(young, (0, 0))
    sweep()
    assert {path.name for path in tmp_path.iterdir()} == {"loom-build-link", "other"}
