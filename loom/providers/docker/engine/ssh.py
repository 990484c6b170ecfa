"""Reach an engine by ssh: one `ssh` for each process of loom forwards a socket of this machine to the engine's.

This uses the user's own ssh, with `~/.ssh/config`, agents, jump hosts and `known_hosts`, which the SDK's own ways mostly ignore.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from urllib.parse import urlsplit

from loom.util import processes
from loom.util.within import readable
from loom.values import Environ

_START_S = 60.0
_OPTIONS = (
    *("-T", "-o", "BatchMode=yes"),  # no prompts, neither for passwords nor for unknown hosts
    *("-o", "ConnectTimeout=10", "-o", "LogLevel=ERROR"),
    *("-o", "ControlMaster=no", "-o", "ControlPath=none"),  # a shared connection would keep the socket
    # Detect a lost network, even during a step that is silent for hours.
    *("-o", "ServerAliveInterval=20", "-o", "ServerAliveCountMax=3"),
)
_FORWARD = 'ssh "$@"; code=$?; rm -rf "$0"; exit $code'
_READY = "echo; exec cat"
"""Runs there: it tells that ssh has connected, and ends with loom, whose end closes its input, also after `kill -9`."""

_lock = threading.Lock()
_forwarding: dict[str, tuple[subprocess.Popen[bytes], str]] = {}


class SshFailed(ConnectionError):
    """The connection failed; the message is ssh's."""


def forwarded(url: str, environ: Environ) -> str:
    """Return the address of a socket that leads to the engine at `url` while this process lives. SshFailed with the reason."""
    with _lock:
        if url not in _forwarding or _forwarding[url][0].poll() is not None:
            _forwarding[url] = _forward(url, environ)
        return _forwarding[url][1]


def _forward(url: str, environ: Environ) -> tuple[subprocess.Popen[bytes], str]:
    if shutil.which("ssh", path=environ.get("PATH")) is None:
        raise SshFailed("the ssh command can't be run: no such file")
    # Not in TMPDIR: a socket's path has 107 bytes, and ssh first gives it a longer one.
    runtime = Path(environ.get("XDG_RUNTIME_DIR", ""))
    directory = tempfile.mkdtemp(
        prefix="loom-ssh-", dir=runtime if runtime.is_absolute() and runtime.is_dir() else "/tmp"
    )
    parts, socket = urlsplit(url), f"{directory}/engine.sock"
    words = [*_OPTIONS, "-L", f"{socket}:{parts.path.rstrip('/') or '/var/run/docker.sock'}"]
    words += ["-l", parts.username] if parts.username else []
    words += ["-p", str(parts.port)] if parts.port else []
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            ["sh", "-c", _FORWARD, directory, *words, "--", str(parts.hostname), _READY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=dict(environ),
            start_new_session=True,  # loom handles ^C on the terminal
        )
        assert process.stdin is not None
        assert process.stdout is not None
        # The socket is there before the command runs.
        if readable([process.stdout.fileno()], _START_S) and process.stdout.read(1):
            return process, f"unix://{socket}"
        process.stdin.close()
        processes.end(process, grace_s=2, group=True)
        process.stdout.close()
        shutil.rmtree(directory, ignore_errors=True)
        stderr.seek(0)
        raise SshFailed(_reason(stderr.read().decode(errors="replace")))


def _reason(stderr: str) -> str:
    """Return the line with the reason from the output of ssh and of the other side."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and not set(line.strip()) <= {"@"}]
    if any("IDENTIFICATION HAS CHANGED" in line for line in lines):
        return "the host's key is not the one that is known: somebody may be in between, or the host is a new one"
    return lines[-1] if lines else "timed out"
