"""`loom watch` on a terminal of its own, as a person sees it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pexpect

from tests.support.waiting import until

LIMIT_S = 60
WAITING = "waiting for changes"


class Watched:
    """A repository that is watched. Every run has a record below `state`."""

    def __init__(self, base: Path, workflow: str, *, ignore: str = "build/\n") -> None:
        self.base = base
        self.root = base / "repo"
        self.state = base / "state"
        self.environ = {
            **os.environ,
            "HOME": str(base / "home"),
            "LOOM_STATE_DIR": str(self.state),
            "LOOM_TMP_DIR": str(base / "tmp"),
            "LOOM_AUTO_CLEAN": "false",
            "GIT_CONFIG_GLOBAL": str(base / "gitconfig"),
            "TERM": "xterm",
        }
        for directory in (self.root / ".loom", base / "home", base / "tmp"):
            directory.mkdir(parents=True)
        (base / "gitconfig").write_text("[user]\nname = t\nemail = t@example.org\n[init]\ndefaultBranch = main\n")
        self.write(".loom/workflow.yml", workflow)
        self.write(".gitignore", ignore)
        self.write("a.txt", "1\n")
        self.git("init", "-q")
        self.git("add", "-A")
        self.git("commit", "-qm", "first")

    def write(self, path: str, text: str) -> None:
        """Write a file, with the directories that are missing, as one change.

        A busy machine could see an emptied file or an empty directory first, which is a change of its own.
        """
        new = self.root / path
        while not new.parent.exists():
            new = new.parent
        draft = self.root.parent / "draft"
        inside = draft / (self.root / path).relative_to(new)
        inside.parent.mkdir(parents=True, exist_ok=True)
        inside.write_text(text)
        draft.replace(new)

    def git(self, *arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=self.root, env=self.environ, check=True, capture_output=True, text=True
        ).stdout

    def receipts(self) -> list[dict[str, Any]]:
        """Those of all runs that ended, the oldest first."""
        found = (json.loads(path.read_text()) for path in self.state.glob("runs/*/receipts/*.json"))
        return sorted(found, key=lambda receipt: str(receipt["started_at"]))

    def jobs(self) -> list[list[str]]:
        """The jobs of each run, by name."""
        plans = (
            json.loads((self.state / "runs" / receipt["run_id"] / "plan.json").read_text())
            for receipt in self.receipts()
        )
        return [sorted(job["id"] for job in document["plan"]["jobs"]) for document in plans]

    @contextmanager
    def watch(self, *arguments: str) -> Iterator[pexpect.spawn]:
        """`loom watch` after its first run."""
        terminal = pexpect.spawn(
            sys.executable,
            ["-m", "loom", "watch", "--color", "never", *arguments],
            cwd=str(self.root),
            env=self.environ,
            encoding="utf-8",
            timeout=LIMIT_S,
            dimensions=(50, 200),
        )
        try:
            terminal.expect(WAITING)
            yield terminal
        finally:
            terminal.close(force=True)

    @contextmanager
    def unseen(self, terminal: pexpect.spawn) -> Iterator[None]:
        """Have the watcher look only after the block."""
        os.kill(terminal.pid, signal.SIGSTOP)
        until(lambda: Path(f"/proc/{terminal.pid}/stat").read_text().split()[2] == "T")
        yield
        os.kill(terminal.pid, signal.SIGCONT)

    def changed(self, terminal: pexpect.spawn, path: str, text: str) -> str:
        """Write a file; return what was shown until the next wait for changes."""
        self.write(path, text)
        return self.next_run(terminal, f"changed: [^\r\n]*{path}")

    def next_run(self, terminal: pexpect.spawn, begins: str = "changed: ") -> str:
        terminal.expect(begins)
        terminal.expect(WAITING)
        return str(terminal.before)


def left(terminal: pexpect.spawn) -> int:
    """Wait for the end; return the exit code."""
    terminal.expect(pexpect.EOF)
    terminal.wait()
    return int(terminal.exitstatus if terminal.exitstatus is not None else -terminal.signalstatus)


def gone(pid: int) -> None:
    def ended() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
        except OSError:
            return True

    until(ended)
