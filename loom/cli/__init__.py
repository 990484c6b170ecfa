"""Arguments, environment, signals and terminal in; exit code out.

One module per command group, each a thin call. Modules here import only typer and light parts of loom at the top: what a
command needs is imported when it runs, so that `--help` and completion stay quick.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """The `loom` command."""
    # Looking for pydantic plugins reads the metadata of every installed package: 25 ms that no one here needs.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from loom.cli.boundary import run_app

    sys.exit(run_app(sys.argv[1:]))
