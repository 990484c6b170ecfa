"""An attacker's repository, and the user who has just cloned it."""

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from loom.config import user_file
from tests.support.loom_process import run_loom

PLAIN = "version: v1\nstages: [test]\nhello: {stage: test, script: [echo hello]}\n"


@dataclass
class Victim:
    """A user with a home of their own, in front of a clone of a stranger's repository."""

    root: Path
    home: Path
    environ: dict[str, str] = field(default_factory=dict)

    def loom(self, *arguments: str, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
        return run_loom(
            arguments,
            cwd=cwd or self.root,
            environ={
                "PATH": os.environ["PATH"],
                "HOME": str(self.home),
                "LOOM_CONTAINER": "0",
                "PYTHONPATH": str(Path(__file__).parents[2]),
                "LANG": "C.UTF-8",
                "TMPDIR": str(self.home / "tmp"),
                **self.environ,
                **environ,
            },
        )

    def write(self, **files: str) -> None:
        """Into the repository, as the attacker pushed it and the user pulled it; `workflow` and `config` by these names."""
        for name, text in files.items():
            path = self.root / ".loom" / f"{name}.yml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "a change")

    def configure(self, text: str) -> None:
        """The user's own configuration."""
        path = user_file({"HOME": str(self.home)})
        assert path is not None
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def git(self, *arguments: str) -> None:
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.com")
        subprocess.run(["git", *identity, *arguments], cwd=self.root, check=True, capture_output=True)

    @property
    def state(self) -> Path:
        return self.home / ".local/state/loom"


def victim_in(directory: Path) -> Victim:
    """A user whose things are below `directory`."""
    origin = directory / "origin"
    origin.mkdir()
    made = Victim(root=directory / "clone", home=directory / "home")
    (made.home / "tmp").mkdir(parents=True)
    subprocess.run(["git", "init", "-q", "-b", "main", str(origin)], check=True)
    Victim(root=origin, home=made.home).write(workflow=PLAIN)
    subprocess.run(["git", "clone", "-q", str(origin), str(made.root)], check=True)
    return made


@pytest.fixture
def victim(tmp_path: Path) -> Victim:
    return victim_in(tmp_path)


@dataclass
class Listener:
    """A machine that an attacker would have loom connect to."""

    address: str
    connections: list[bytes]


@pytest.fixture
def listener() -> Iterator[Listener]:
    server = socket.create_server(("127.0.0.1", 0))
    heard = Listener(f"tcp://127.0.0.1:{server.getsockname()[1]}", [])

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                heard.connections.append(b"")
                connection.settimeout(1)
                try:
                    heard.connections[-1] = connection.recv(65536)
                except OSError:
                    pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield heard
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()
