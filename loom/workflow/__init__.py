"""Load the user's file into models that know file, line and column of every value, before anything is decided."""

from typing import TYPE_CHECKING

from loom.util import startup

if TYPE_CHECKING:
    from loom.workflow.inheritance import Entry
    from loom.workflow.lint import of_run
    from loom.workflow.loader import Examined, Workflow, examine, load
else:  # a run with a kept plan needs the names of variables from here, and not the language
    __getattr__ = startup.names_of(
        __name__, {"inheritance": "Entry", "lint": "of_run", "loader": "Examined Workflow examine load"}
    )

__all__ = ["Entry", "Examined", "Workflow", "examine", "load", "of_run"]
