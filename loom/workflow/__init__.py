"""Load the user's file into models that know file, line and column of every value, before anything is decided."""

from loom.workflow.inheritance import Entry
from loom.workflow.loader import Examined, Workflow, examine, load

__all__ = ["Entry", "Examined", "Workflow", "examine", "load"]
