"""Run the plan: jobs in order, each with its sections and steps in a session."""

from loom.runner.hooks import AtStep, Gate, Resumption, Verdict
from loom.runner.session import PlaceOpener, Settings, Tools
from loom.runner.views import View

__all__ = [
    "AtStep",
    "Gate",
    "PlaceOpener",
    "Resumption",
    "Settings",
    "Tools",
    "Verdict",
    "View",
]
