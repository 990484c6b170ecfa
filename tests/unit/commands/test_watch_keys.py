"""The keys of `loom watch`, on a real terminal."""

import os
from queue import SimpleQueue

from loom.commands.run.watch import HANGUP, _keys


def test_keys_are_told_and_so_is_a_terminal_that_went_while_others_had_it() -> None:
    told: SimpleQueue[str] = SimpleQueue()
    master, slave = os.openpty()
    before = os.dup(0)
    os.dup2(slave, 0)
    os.close(slave)
    try:
        with _keys(told.put):
            os.write(master, b"r")
            assert told.get(timeout=30) == "r"
        os.close(master)
        with _keys(told.put):
            assert told.get(timeout=30) == HANGUP
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        with _keys(told.put):
            pass
    finally:
        os.dup2(before, 0)
        os.close(before)
    assert told.empty()
