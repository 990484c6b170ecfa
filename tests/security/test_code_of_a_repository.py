"""Nothing in a repository is run as a part of loom."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import until

from .conftest import Victim

pytestmark = pytest.mark.slow

PROGRAM = str(Path(sys.executable).with_name("loom"))
CLIENT = {"name": "an agent", "version": "1"}


def take_over(victim: Victim) -> Path:
    """Commit modules that say so if any of them is imported; return the file in which they say it."""
    marker = victim.home / "taken over"
    evil = f"open({str(marker)!r}, 'w').write('x')\nimport os\nos._exit(0)\n"
    for name in ("loom/__init__.py", "loom/__main__.py", "msgspec.py", "typing_extensions.py", "sitecustomize.py"):
        (victim.root / name).parent.mkdir(exist_ok=True)
        (victim.root / name).write_text(evil)
    victim.write()
    return marker


def test_a_package_named_like_loom_is_not_what_cleans_up_after_a_run(victim: Victim) -> None:
    """The end of a run starts loom again, in the repository: Python would look for the module there first."""
    marker = take_over(victim)
    victim.configure("keep_workspaces: 1\n")
    environ = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(victim.home),
        "TMPDIR": str(victim.home / "tmp"),
        "LOOM_CONTAINER": "0",
    }
    for _ in range(2):
        subprocess.run([PROGRAM, "run"], cwd=victim.root, env=environ, check=True, capture_output=True, timeout=120)
    # Until what cleans has done so.
    until(lambda: marker.exists() or len(list((victim.home / "tmp").glob("*/loom-run-local-*"))) <= 1, limit_s=120)
    assert not marker.exists()


def test_a_package_named_like_loom_is_not_what_an_agent_asks(victim: Victim) -> None:
    """`loom mcp` starts loom again for each tool, and an agent only looks around in the clone."""
    marker = take_over(victim)
    calls = [
        {"method": "initialize", "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": CLIENT}},
        {"method": "tools/call", "params": {"name": "check", "arguments": {}}},
    ]
    lines = [json.dumps({"jsonrpc": "2.0", "id": number, **call}) + "\n" for number, call in enumerate(calls)]
    lines.insert(1, json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}) + "\n")
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(victim.home), "TMPDIR": str(victim.home / "tmp")}
    command, pipe = [PROGRAM, "mcp", "--read-only"], subprocess.PIPE
    with subprocess.Popen(command, cwd=victim.root, env=environ, stdin=pipe, stdout=pipe, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write("".join(lines))
        server.stdin.flush()
        answers = [json.loads(server.stdout.readline()) for _ in calls]
        server.stdin.close()
    assert not marker.exists()
    assert answers[-1]["result"]["structuredContent"]["text"].startswith(".loom/workflow.yml: ok, ")


def test_no_command_starts_a_program_that_a_jobs_workspace_names(victim: Victim) -> None:
    """A job can write its workspace's .git/config, and a user looks around there."""
    marker = victim.home / "taken over"
    monitor = victim.root / "monitor"
    monitor.write_text(f"#!/bin/sh\ntouch '{marker}'\n")
    monitor.chmod(0o755)
    victim.write(
        workflow="version: v1\nstages: [t]\na: {stage: t, script: [echo $A], rules: [{changes: [x]}, {exists: [y]}]}\n"
    )
    victim.git("config", "core.fsmonitor", str(monitor))
    (victim.root / "new").touch()
    for command in (("check",), ("compile",), ("trust",), ("run", "--dry-run"), ("cache", "ls"), ("snapshot",)):
        done = victim.loom(*command)
        assert not marker.exists(), (command, done.stderr)
    subprocess.run(["git", "status"], cwd=victim.root, check=True, capture_output=True)
    assert marker.exists()


def test_files_of_a_commit_that_are_a_repository_are_none(victim: Victim) -> None:
    """Git takes a directory for a bare repository by the files in it, and its configuration names programs and directories."""
    marker = victim.home / "taken over"
    trap = victim.root / "trap"
    subprocess.run(["git", "clone", "-q", "--bare", str(victim.root), str(trap)], check=True)
    (trap / "config").write_text(
        f"[core]\nrepositoryformatversion = 0\nworktree = {victim.root}\n[filter \"x\"]\nclean = touch '{marker}'; cat\n"
    )
    (victim.root / ".gitattributes").write_text("* filter=x\n")
    (victim.root / "new").touch()
    for command in (("snapshot",), ("run",), ("check",), ("compile",)):
        victim.loom(*command, cwd=trap)
        assert not marker.exists(), command
    subprocess.run(["git", "add", ".."], cwd=trap, check=True, capture_output=True)
    assert marker.exists()
