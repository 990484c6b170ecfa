"""The forms of a diagnosis. A new form is a module of this package with a function `lines`, and a line of `DiagnosisForm`."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loom.analysis.diagnosis import Diagnosis
    from loom.render.screen import Look


class DiagnosisForm(StrEnum):
    """Modules of this package."""

    TEXT = "text"
    AGENT = "agent"
    JSON = "json"
    GITHUB = "github"
    GITLAB = "gitlab"


def lines(form: str, diagnosis: Diagnosis, look: Look, *, now_ns: int) -> Iterable[str]:
    """Return the diagnosis as lines of output in one of the forms."""
    found: Iterable[str] = import_module(f"{__name__}.{form}").lines(diagnosis, look, now_ns=now_ns)
    return found
