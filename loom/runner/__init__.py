"""One job: its sections and steps, in order, in a session."""

from loom.runner.handover import Handover
from loom.runner.hooks import AtStep, Gate, Keeping, MakeCheckpoint, Resumption, Verdict
from loom.runner.job import JobRunner
from loom.runner.place import ImageResolver, PlaceOpener, Resolved, Settings, Tools

__all__ = [
    "AtStep",
    "Gate",
    "Handover",
    "ImageResolver",
    "JobRunner",
    "Keeping",
    "MakeCheckpoint",
    "PlaceOpener",
    "Resolved",
    "Resumption",
    "Settings",
    "Tools",
    "Verdict",
]
