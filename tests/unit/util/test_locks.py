"""Locks of kept containers: many users beside each other, one alone, and nobody turned away by a question."""

import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from loom.errors import RequestError
from loom.util import locks
from tests.support.effort import effort

_LOOP = """
import sys
from pathlib import Path
from loom.errors import RequestError
from loom.util import locks

lost = 0
for _ in range(int(sys.argv[2])):
    try:
        with locks.held(Path(sys.argv[1]), "it", "loom exec", alone=False):
            locks.holders(Path(sys.argv[1]))
    except RequestError:
        lost += 1
print(lost)
"""


@pytest.mark.slow
def test_many_processes_hold_a_lock_at_once_and_none_is_turned_away(tmp_path: Path) -> None:
    file = tmp_path / "container-locks" / "one.lock"
    times = str(effort(100, 2000))
    loops = [
        subprocess.Popen([sys.executable, "-c", _LOOP, str(file), times], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert [loop.communicate()[0].strip() for loop in loops] == ["0"] * 4
    assert file.stat().st_size <= 4 * 256, "who comes takes the slot of one who left"


def test_one_alone_and_many_exclude_each_other_by_name(tmp_path: Path) -> None:
    file = tmp_path / "container-locks" / "one.lock"
    with locks.held(file, "it", "loom shell", alone=False), locks.held(file, "it", "loom exec", alone=False):
        with pytest.raises(RequestError, match=r"it is in use by `loom shell` .*, `loom exec` "):
            ExitStack().enter_context(locks.held(file, "it", "loom resume", alone=True))
        assert "`loom shell`" in locks.holders(file)
    assert locks.holders(file) == ""
    with locks.held(file, "it", "loom resume", alone=True):
        for alone in (False, True):
            with pytest.raises(RequestError, match=r"it is in use by `loom resume` "):
                ExitStack().enter_context(locks.held(file, "it", "loom exec", alone=alone))
        assert "`loom resume`" in locks.holders(file)
    assert locks.holders(file) == ""


def test_who_comes_while_a_container_is_removed_holds_the_one_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "container-locks" / "one.lock"
    removed = threading.Event()
    real = locks._opened

    def opened(path: Path) -> int:
        descriptor = real(path)
        if not removed.is_set():
            removed.set()
            path.unlink()  # its holder removes the place between the opening and the lock
        return descriptor

    monkeypatch.setattr(locks, "_opened", opened)
    with locks.held(file, "it", "loom exec", alone=False):
        assert "`loom exec`" in locks.holders(file)


def test_a_name_of_any_bytes_and_length_is_told(tmp_path: Path) -> None:
    file = tmp_path / "container-locks" / "one.lock"
    with locks.held(file, "it", f"loom exec \udcff{300 * 'ü'}", alone=False):
        assert locks.holders(file).startswith("`loom exec ?ü")
