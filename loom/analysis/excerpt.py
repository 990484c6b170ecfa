"""The source lines around the place of a failure, read when the run ends: a job's files may go, and change, later."""

from __future__ import annotations

import os
from pathlib import Path

from loom.analysis.diagnosis import Diagnosis, Excerpt
from loom.util.controls import cleaned
from loom.util.untrusted_files import read_regular

AROUND = 3
_LARGEST = 4 << 20
_WIDEST = 200


def excerpt_of(diagnosis: Diagnosis, root: Path) -> Excerpt | None:
    """Return the lines around the first place outside the workflow file; None where `root` has no such text."""
    workflow = (diagnosis.step_place or "").rpartition(":")[0]
    place = next((place for place in diagnosis.places if place.file != workflow), None)
    if place is None:
        return None
    path = Path(os.path.realpath(root / place.file))
    if not path.is_relative_to(os.path.realpath(root)):
        return None
    try:
        lines = read_regular(path, at_most=_LARGEST).decode().splitlines()
    except (OSError, ValueError):
        return None
    first = max(1, place.line - AROUND)
    shown = [cleaned(line.expandtabs(4))[:_WIDEST] for line in lines[first - 1 : place.line + AROUND]]
    if not first <= place.line < first + len(shown):
        return None
    return Excerpt(file=place.file, line=place.line, first_line=first, text="\n".join(shown))
