"""One job: its sections and steps, in order, in a session."""

from loom.runner.handover import Handover
from loom.runner.job import JobRunner
from loom.runner.place import ImageResolver, PlaceOpener, Resolved, Settings, Tools

__all__ = ["Handover", "ImageResolver", "JobRunner", "PlaceOpener", "Resolved", "Settings", "Tools"]
