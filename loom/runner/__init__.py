"""One job: its sections and steps, in order, in a session."""

from loom.runner.job import JobRunner
from loom.runner.place import ImageResolver, PlaceOpener, Resolved, Settings, Tools

__all__ = ["ImageResolver", "JobRunner", "PlaceOpener", "Resolved", "Settings", "Tools"]
