"""Locks that other processes hold."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loom.util import processes
from loom.util.within import wait_until
from tests.support.waiting import promptly

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


def child(script: str) -> subprocess.Popen[bytes]:
    started = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, process_group=0)
    assert started.stdout is not None
    with started.stdout as output:
        assert output.readline() == b"on\n"
    return started


def test_a_process_has_its_grace_and_no_more() -> None:
    polite = child("trap 'exit 7' TERM; echo on; while :; do sleep 0.01; done")
    deaf = child("trap '' TERM; echo on; while :; do sleep 0.01; done")
    began = time.monotonic()
    with promptly():
        processes.end(polite, grace_s=300)
        processes.end(deaf, grace_s=0.5)
    assert (polite.returncode, deaf.returncode) == (7, -signal.SIGKILL)
    assert time.monotonic() - began > 0.4


def test_without_grace_it_is_killed_and_one_that_has_ended_stays_as_it_is() -> None:
    killed, over = child("echo on; exec sleep 60"), child("echo on; exit 3")
    over.wait(60)
    processes.end(killed, over)
    assert (killed.returncode, over.returncode) == (-signal.SIGKILL, 3)


@pytest.mark.slow
def test_a_group_ends_with_its_leader() -> None:
    leader = child("sleep 60 & echo on; wait")
    processes.end(leader, group=True)
    assert wait_until(lambda: not is_group(leader.pid), limit_s=60, every_s=0.01)


def is_group(number: int) -> bool:
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True
