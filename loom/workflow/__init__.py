"""The user's file as models that know file, line and column of every value: what they wrote, before anything is decided."""

from loom.workflow.inheritance import Entry
from loom.workflow.loader import Examined, Workflow, examine, load

__all__ = ["Entry", "Examined", "Workflow", "examine", "load"]
