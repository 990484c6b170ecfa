"""Load the user's file into values that know file, line and column of everything, before anything is decided.

Each language has a folder (`native`, `gitlab`); the modules here are what they share.
"""

from typing import TYPE_CHECKING

from loom.util import startup

if TYPE_CHECKING:
    from loom.workflow.native.inheritance import Entry
    from loom.workflow.native.lint import of_run
    from loom.workflow.native.loader import Workflow, examine, load
else:  # a run with a kept plan needs the names of variables from here, and not the language
    __getattr__ = startup.names_of(
        __name__, {"native.inheritance": "Entry", "native.lint": "of_run", "native.loader": "Workflow examine load"}
    )

__all__ = ["Entry", "Workflow", "examine", "load", "of_run"]
