"""The directory of a build goes with loom, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from loom.cancel import Cancel
from loom.providers.docker.images.buildx import _in_memory, _run
from tests.support.waiting import until


def test_the_command_finds_the_files_of_a_build_which_are_gone_after_it(tmp_path: Path) -> None:
    dockerfile, heard = tmp_path / "made" / "Dockerfile.a", bytearray()
    with _in_memory({"": b"FROM x\n", ".dockerignore": b"rules\n"}) as files:
        command = ["sh", "-c", f"cat {dockerfile} {dockerfile}.dockerignore; exit 3"]
        arguments = [str(dockerfile), *map(str, files.values()), *command]
        code = _run(
            arguments, descriptors=tuple(files.values()), environ=os.environ, on_bytes=heard.extend, cancel=Cancel()
        )
    assert (code, bytes(heard)) == (3, b"FROM x\nrules\n")
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, sys
from loom.cancel import Cancel
from loom.providers.docker.images.buildx import _in_memory, _run
with _in_memory({"": b"FROM x", ".dockerignore": b""}) as files:
    command = [sys.argv[1], *map(str, files.values()), "sh", "-c", "echo $$; exec sleep 1000"]
    _run(command, descriptors=tuple(files.values()), environ=os.environ,
         on_bytes=lambda data: os.write(1, data), cancel=Cancel())
"""


def test_a_loom_that_is_killed_leaves_neither_the_build_nor_its_directory(tmp_path: Path) -> None:
    loom = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "made" / "Dockerfile")], stdout=subprocess.PIPE, text=True
    )
    assert loom.stdout is not None
    build = Path("/proc", loom.stdout.readline().strip())
    assert (tmp_path / "made" / "Dockerfile").read_text() == "FROM x"
    loom.send_signal(signal.SIGKILL)
    loom.communicate()
    until(lambda: not list(tmp_path.iterdir()))
    assert not build.exists()
