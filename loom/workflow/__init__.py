"""The user's file as models that know file, line and column of every value: what they wrote, before anything is decided."""

from loom.workflow.loading import Entry, Workflow, load

__all__ = ["Entry", "Workflow", "load"]
