"""One job: its sections and steps, in order, in a session."""

from typing import TYPE_CHECKING

from loom.runner.hooks import AtStep, Gate, Keeping, Resumption, Verdict
from loom.runner.session import PlaceOpener, Settings, Tools
from loom.runner.views import View
from loom.util import lazy

if TYPE_CHECKING:
    from loom.runner.job import JobRunner
    from loom.runner.products import Handover
else:
    __getattr__ = lazy.names_of(__name__, {"products": "Handover", "job": "JobRunner"})

__all__ = [
    "AtStep",
    "Gate",
    "Handover",
    "JobRunner",
    "Keeping",
    "PlaceOpener",
    "Resumption",
    "Settings",
    "Tools",
    "Verdict",
    "View",
]
