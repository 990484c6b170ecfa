"""One job: its sections and steps, in order, in a session."""

from typing import TYPE_CHECKING

from loom import lazily
from loom.runner.hooks import AtStep, Gate, Keeping, MakeCheckpoint, Resumption, Verdict
from loom.runner.place import ImageResolver, PlaceOpener, Resolved, Settings, Tools
from loom.runner.views import View

if TYPE_CHECKING:
    from loom.runner.handover import Handover
    from loom.runner.job import JobRunner
else:
    __getattr__ = lazily.names_of(__name__, {"handover": "Handover", "job": "JobRunner"})

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
    "View",
]
