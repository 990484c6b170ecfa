"""One run: the snapshot, then the plan's jobs, each in a session; every fact goes to the record as an event."""

from loom.runner.hooks import AtStep, Gate, Resumption, Verdict
from loom.runner.session import JobTools, PlaceOpener, RunSettings
from loom.runner.views import View

__all__ = [
    "AtStep",
    "Gate",
    "JobTools",
    "PlaceOpener",
    "Resumption",
    "RunSettings",
    "Verdict",
    "View",
]
