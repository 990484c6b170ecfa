"""`loom watch`."""

from __future__ import annotations

from typing import Annotated

from loom.cli import options
from loom.cli.command import done_by, option


@done_by("run.watch", takes=(options.PlanOptions, options.RunOptions))
def watch(
    everything: Annotated[
        bool, option("--all", "Run all jobs at each change, from the start, not first those that failed.")
    ] = False,
    poll: Annotated[
        bool, option("--poll", "Look at every file each second: for file systems that report no changes.")
    ] = False,
) -> None:
    """Run the workflow's jobs, and again each time that a file changes.

    What git ignores does not count. Jobs that failed run first, then those that wait for them, then the rest; a job whose
    `rules: changes` do not name what changed is left out. Keys: r run, f failed jobs only, s shell into the failure, q quit.
    """
