"""Note a run that was refused: without a record of it, `loom diagnose` would explain the run before it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from loom import config
from loom.commands.project import find_root
from loom.errors import LoomError, RequestError, WorkflowError
from loom.record import unrecorded
from loom.record.events import timestamp
from loom.render.problems import problem_lines
from loom.util.controls import shown


def note_refusal(arguments: Sequence[str], error: Exception, exit_code: int, *, began_ns: int) -> None:
    """Record that a command ended with `error`. It counts only while no run that began later has a record."""
    if "--dry-run" in arguments:
        return
    with suppress(LoomError, OSError):
        root = find_root(Path.cwd())
        if not (root / ".git").exists():
            return
        found = unrecorded.Unrecorded(
            at=timestamp(began_ns),
            command=["loom", *map(shown, arguments)],
            exit_code=exit_code,
            error=shown(_text(error))[: unrecorded.LONGEST],
            error_code=getattr(error, "code", RequestError.default_code),
            hint=shown(error.hint)[: unrecorded.LONGEST] if isinstance(error, LoomError) and error.hint else None,
        )
        unrecorded.note(_state_dir(root), root, found)


def _text(error: Exception) -> str:
    if isinstance(error, WorkflowError):
        return "\n".join(problem_lines(error.problems))
    of_parser = getattr(error, "format_message", None)
    return str(of_parser()) if callable(of_parser) else getattr(error, "message", None) or repr(error)


def _state_dir(root: Path) -> Path:
    """Return the state directory, without the settings of the environment where one of them was refused."""
    try:
        return config.load(root=root, environ=os.environ, flags={}).state_dir
    except LoomError:
        environ = {name: value for name, value in os.environ.items() if name in ("HOME", "LOOM_STATE_DIR", "TMPDIR")}
        environ |= {name: value for name, value in os.environ.items() if name.startswith("XDG_")}
        return config.load(root=None, environ=environ, flags={}).state_dir
