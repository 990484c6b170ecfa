"""`loom mcp`, started by a client of which only the messages count."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from loom.commands.agents.tools import AgentTools, Limits
from tests.support.waiting import promptly, until

CLIENT = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "an agent", "version": "1"}}
MESSAGES = [
    {"id": 1, "method": "initialize", "params": CLIENT},
    {"method": "notifications/initialized"},
    {"id": 2, "method": "tools/call", "params": {"name": "explain", "arguments": {"paths": ["x"]}}},
]


@pytest.mark.parametrize("run", ["/etc/hostname", "../x", "-", "https://127.0.0.1:1/x", "x.bundle"])
def test_an_agent_names_a_run_and_no_file_or_address(run: str) -> None:
    # Here, for each worker reads this file, and these take it a second.
    from mcp.server.mcpserver.exceptions import ToolError

    from loom.commands.agents.mcp import _looking, _Server, _Serving

    server = _Server("loom")
    _looking(server, _Serving(AgentTools(Limits(), None)))
    with pytest.raises(ToolError, match="pattern"):
        asyncio.run(server.call_tool("diagnose", {"run": run}))


def is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("ended", ["before the call begins", "at the end of input", "by TERM"])
def test_it_ends_at_once_whatever_it_answers(tmp_path: Path, ended: str) -> None:
    """A package named like loom in the checkout changes nothing."""
    root = tmp_path / "root"
    (root / "loom").mkdir(parents=True)
    (root / "loom/__init__.py").write_text("")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    git, begun = tmp_path / "bin/git", tmp_path / "begun"
    git.parent.mkdir()
    git.write_text(f"#!/bin/sh\necho $$ >>'{begun}'\nexec sleep 300\n")
    git.chmod(0o755)
    environ = {"PATH": f"{git.parent}:/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    program = str(Path(sys.executable).with_name("loom"))
    pipe = subprocess.PIPE
    with subprocess.Popen([program, "mcp"], cwd=root, env=environ, stdin=pipe, stdout=pipe, text=True) as server:
        assert server.stdin is not None
        try:
            server.stdin.write("".join(json.dumps({"jsonrpc": "2.0", **message}) + "\n" for message in MESSAGES))
            server.stdin.flush()
            if ended != "before the call begins":
                until(begun.exists, while_runs=server)
            with promptly():
                if ended == "by TERM":
                    server.terminate()
                else:
                    server.stdin.close()
                assert server.wait(120) == (128 + signal.SIGTERM if ended == "by TERM" else 0)
            pids = begun.read_text().split() if begun.exists() else []
            until(lambda: not any(map(is_running, pids)))
        finally:
            server.kill()
