"""A diagnosis as its document."""

from __future__ import annotations

from collections.abc import Iterator

from loom.analysis.diagnosis import Diagnosis
from loom.render.look import Look
from loom.render.output import json_text


def lines(diagnosis: Diagnosis, look: Look, *, now_ns: int) -> Iterator[str]:
    yield json_text(diagnosis).rstrip("\n")
