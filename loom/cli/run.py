"""`loom run`."""

from __future__ import annotations

from typing import Literal

from loom.cli import options
from loom.cli.command import done_by, option


@done_by("run.run", ahead="loom.snapshot.source:ask_ahead", takes=(options.PlanOptions, options.RunOptions))
def run(
    local: bool = option("--local", "Run locally (the default; accepted for clarity)."),
    dry_run: bool = option("--dry-run -n", "Print the plan and run nothing."),
    quiet: bool = options.QUIET,
    fail_fast: bool | None = option("--fail-fast", "Stop everything at the first failure."),
    form: Literal["screen", "json", "github", "gitlab"] = option(
        "--format", "Output format; github and gitlab are for a CI system that runs loom.", default="screen"
    ),
    as_json: bool = option("--json", "Print events as JSON lines on standard output."),
    detach: bool = option(
        "--detach", "Leave when the first jobs run in a cluster; they go on there until `loom attach`."
    ),
    repeat: int | None = options.REPEAT,
    staged: bool = option("--staged", "Run what is staged for a commit, without the rest of the work tree."),
    reuse: bool = option(
        "--reuse", "Don't run jobs again whose inputs, image and variables are those of an earlier run."
    ),
    suggest_inputs: bool = option("--suggest-inputs", "Say which files the jobs read, as their `inputs` (Linux)."),
    no_delay: bool = option("--no-delay", "Start delayed jobs at once."),
) -> None:
    """Run the workflow's jobs on a snapshot of the repository.

    Exit code: 0 when all passed, 1 when a job failed, 2 for an invalid request or workflow, 3 when the engine, an image
    or the snapshot is unavailable, 4 when a job timed out, 77 when a failed job is paused, 130, 143 or 129 when interrupted
    (INT, TERM, HUP).
    """
