"""Locks that other processes hold."""

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from loom.util import processes

HOLDS = "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"


def test_a_lock_is_had_when_its_holder_ends_and_not_waited_for_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder, path.open("w") as file:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(TimeoutError, match="another process has held its lock"):
            processes.lock(file, fcntl.LOCK_EX, 0.1)
        holder.stdin.close()
        processes.lock(file, fcntl.LOCK_EX)
