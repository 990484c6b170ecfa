"""Workspaces are large: where /tmp takes the machine's memory they are made in /var/tmp."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loom.util.file_systems import file_system_of, in_memory

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare"), reason="needs to mount over /tmp, for itself alone"
)
@pytest.mark.parametrize(("more", "expected"), [({}, "/var/tmp"), ({"TMPDIR": "/tmp"}, "/tmp")])
def test_workspaces_are_made_on_disk(more: dict[str, str], expected: str) -> None:
    # The interpreter and the project may be below /tmp themselves: there is another way to them.
    script = 'mount --rbind / /mnt && mount -t tmpfs none /tmp && exec "/mnt$0" -m loom config show'
    shown = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, sys.executable],
        cwd="/",
        env={"PATH": os.environ["PATH"], "HOME": "/root", "PYTHONPATH": f"/mnt{ROOT}", **more},
        capture_output=True,
        text=True,
        check=False,
    )
    if "mount:" in shown.stderr:
        pytest.skip("may not mount")
    assert shown.returncode == 0, shown.stderr
    lines = [line.split()[:2] for line in shown.stdout.splitlines()]
    assert ["tmp_dir:", expected] in lines, shown.stdout


def test_what_a_directory_lies_on(tmp_path: Path) -> None:
    assert in_memory(Path("/dev/shm"))
    assert file_system_of(Path("/proc/self")) == "proc"
    assert file_system_of(tmp_path) == file_system_of(tmp_path.parent) != ""
