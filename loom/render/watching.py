"""The lines of `loom watch` between two runs."""

from __future__ import annotations

from collections.abc import Collection

from loom.render.screen import Look
from loom.util.controls import shown
from loom.util.units import counted

MOST_NAMED = 3
KEYS = ("r run", "f failed only", "s shell", "q quit")


def changed_line(paths: Collection[str], time: str, look: Look) -> str:
    """State when a run began, and what had changed."""
    named = ", ".join(shown(path) for path in sorted(paths)[:MOST_NAMED])
    more = f" and {counted(len(paths) - MOST_NAMED, 'more file')}" if len(paths) > MOST_NAMED else ""
    what = f"changed: {named}{more}" if paths else "run"
    return look.styled(f"{look.marks['start']} {time}  {what}", "bold")


def waiting_line(*, keys: bool, look: Look) -> str:
    dot = f" {look.marks['dot']} "
    return look.styled(f"waiting for changes{look.marks['dots']}{f'  {dot.join(KEYS)}' if keys else ''}", "dim")
