"""Runs the real `loom` in real repositories, each test with a home, a state and a temporary directory of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pexpect
import pytest

from tests.support.loom_process import run_loom
from tests.support.repository import commit_all
from tests.support.waiting import until

IMAGE = "debian:trixie-slim"


@dataclass(frozen=True)
class Ran:
    """A `loom` that ended, and its record."""

    code: int
    out: str
    err: str

    @property
    def receipt_path(self) -> Path:
        lines = [line for line in self.out.splitlines() if line.startswith("receipt: ")]
        assert lines, f"no receipt in\n{self.out}\n{self.err}"
        return Path(lines[-1].removeprefix("receipt: "))

    @property
    def receipt(self) -> dict[str, Any]:
        return load(self.receipt_path)

    @property
    def logs(self) -> Path:
        return Path(self.receipt["logs_dir"])

    @property
    def workspace(self) -> Path:
        (line,) = [line for line in self.out.splitlines() if line.startswith("isolated workspace: ")]
        return Path(line.removeprefix("isolated workspace: "))

    def manifest(self, job: str) -> dict[str, Any]:
        return load(self.logs / "jobs" / job / "manifest.json")

    def output(self, job: str, step: str = "script/01") -> list[str]:
        return output_of(self.logs / "jobs" / job / "user" / step / "events.jsonl")


def load(path: Path) -> dict[str, Any]:
    shape: dict[str, Any] = json.loads(path.read_text())
    return shape


def events_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def output_of(path: Path) -> list[str]:
    return [event["text"] for event in events_of(path) if event["kind"] == "output"]


class Project:
    """A repository with a workflow, and `loom` to run in it."""

    def __init__(self, root: Path, home: Path) -> None:
        self.root = root
        self.home = home
        self.tmp = home / "tmp"
        self.tmp.mkdir(parents=True)
        self.become: tuple[str, ...] = ()
        """A command in front of `loom` that makes it another user's."""

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def git(self, *arguments: str) -> str:
        return subprocess.run(
            ("git", *arguments), cwd=self.root, env=self.environ, check=True, capture_output=True, text=True
        ).stdout

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "work")

    def workflow(self, text: str) -> None:
        self.write(".loom/workflow.yml", text)
        self.commit()

    @property
    def environ(self) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "PYTHONPATH", "DOCKER_HOST")
        }
        return {
            **kept,
            "LOOM_CONTAINER": "0",
            "HOME": str(self.home),
            "TMPDIR": str(self.tmp),
            "LOOM_TRUST": "1",  # secrets from the environment; tests/security has what happens without
            "LOOM_AUTO_CLEAN": "no",
            "GIT_AUTHOR_NAME": "A",
            "GIT_AUTHOR_EMAIL": "a@example.org",
            "GIT_COMMITTER_NAME": "A",
            "GIT_COMMITTER_EMAIL": "a@example.org",
        }

    def start(self, *arguments: str, cwd: Path | None = None, **environ: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.become, sys.executable, "-m", "loom", *arguments],
            cwd=cwd or self.root,
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def loom(self, *arguments: str, cwd: Path | None = None, **environ: str) -> Ran:
        if not self.become:
            done = run_loom(arguments, cwd=cwd or self.root, environ={**self.environ, **environ})
            return Ran(done.returncode, done.stdout, done.stderr)
        with self.start(*arguments, cwd=cwd, **environ) as process:
            try:
                out, err = process.communicate(timeout=600)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return Ran(process.returncode, out, err)

    def run(self, *arguments: str, **environ: str) -> Ran:
        return self.loom("run", "--local", "--container", *arguments, **environ)

    def on_terminal(
        self, *arguments: str, size: tuple[int, int] = (31, 97), timeout: int = 60, **environ: str
    ) -> pexpect.spawn[str]:
        """`loom` on a terminal of its own, of so many lines and columns."""
        return pexpect.spawn(
            sys.executable,
            ["-m", "loom", *arguments],
            cwd=str(self.root),
            env={**self.environ, "TERM": "xterm", **environ},
            encoding="utf-8",
            timeout=timeout,
            dimensions=size,
        )

    def stop_when(self, seen: Callable[[], bool], number: signal.Signals, *arguments: str) -> Ran:
        """Start a run, wait until `seen`, send a signal, and wait for the end."""
        process = self.start("run", "--local", "--container", *arguments)
        until(seen, while_runs=process)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        return Ran(process.returncode, out, err)

    def record_files(self, pattern: str) -> list[Path]:
        return sorted((self.home / ".local/state/loom/runs").glob(f"*/{pattern}"))

    def has_printed(self, text: str, job: str) -> bool:
        """Whether the job's first step has printed this line."""
        files = self.record_files(f"logs/*/jobs/{job}/user/script/01/*.jsonl")
        return any(f'"{text}"' in path.read_text() for path in files)

    def leftovers(self) -> list[str]:
        """Containers of runs of this project that are still there."""
        client = docker.from_env()
        try:
            # The plain list, which no container that goes away meanwhile can break.
            found = client.api.containers(all=True, filters={"label": "loom.workspace"})
            return [
                str(container["Names"][0])
                for container in found
                if str(container["Labels"]["loom.workspace"]).startswith(str(self.tmp))
            ]
        finally:
            client.close()


@contextmanager
def project_in(folder: Path) -> Iterator[Project]:
    root = folder / "project"
    root.mkdir()
    made = Project(root, folder / "home")
    made.write("README", "hello\n")
    commit_all(root)
    yield made
    assert made.leftovers() == []


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with project_in(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def project_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """For tests that read what one run left, and change nothing of it."""
    with project_in(tmp_path_factory.mktemp("module")) as made:
        yield made


SLEEPS = """sh -c "echo a'sleep'; exec sleep 100\""""
"""A command in the foreground, which says so in words that the command line does not have."""


def ended(child: pexpect.spawn[str]) -> int | None:
    """The exit code of what ran on a terminal, once it has ended."""
    child.expect(pexpect.EOF)
    child.wait()  # `close` would kill it if it is not quick
    child.close()
    code: int | None = child.exitstatus
    return code


def tree(folder: Path) -> Mapping[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
