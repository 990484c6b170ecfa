"""The forms of a diagnosis. A new form is a module of this package with a function `lines`, and a line of `DiagnosisForm`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loom.analysis.diagnosis import Diagnosis
    from loom.render.look import Look


class DiagnosisForm(StrEnum):
    """Modules of this package, and `json`: the document itself."""

    TEXT = "text"
    AGENT = "agent"
    JSON = "json"
    GITHUB = "github"
    GITLAB = "gitlab"


OF_ALL_JOBS = (DiagnosisForm.GITHUB, DiagnosisForm.GITLAB)
"""Forms that hold every failed job of a run."""


def lines(
    form: str, diagnosis: Diagnosis, look: Look, *, now_ns: int, others: Sequence[Diagnosis] = ()
) -> Iterable[str]:
    """Return the diagnosis as lines of output in one of the forms. `others`: of further jobs, for `OF_ALL_JOBS`, which name the
    same failure of several jobs once."""
    if form == DiagnosisForm.JSON:
        from loom.render.output import json_text  # the command line needs the names alone

        return [json_text(diagnosis).rstrip("\n")]
    module = import_module(f"{__name__}.{form}")
    of_all = form in OF_ALL_JOBS
    found: Iterable[str] = (
        module.lines_of_all([diagnosis, *others]) if of_all else module.lines(diagnosis, look, now_ns=now_ns)
    )
    return found
