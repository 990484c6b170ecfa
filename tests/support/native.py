"""Load a workflow in loom's own language, whatever its file is called."""

from pathlib import Path

from loom.workflow.messages import refused
from loom.workflow.native.loader import Workflow, examine

__all__ = ["Workflow", "load"]


def load(path: Path, root: Path) -> Workflow:
    """Read, merge and check. RequestError for a missing file, WorkflowError with every problem otherwise."""
    examined = examine(path, root)
    if examined.problems or not isinstance(examined.workflow, Workflow):
        raise refused(examined.problems)
    return examined.workflow
