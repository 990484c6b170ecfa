"""`loom run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from loom.cli import options
from loom.cli.command import completion, done_by


@done_by("run.run", ahead="loom.snapshot.source:ask_ahead")
def run(
    names: options.Jobs = None,
    local: Annotated[bool, typer.Option("--local", help="Run locally (the default; accepted for clarity).")] = False,
    container: options.Container = None,
    on: options.On = None,
    workflow: options.WorkflowFile = None,
    stage: options.Stages = None,
    from_job: options.FromJob = None,
    only_failed: Annotated[
        bool, typer.Option("--only-failed", help="Only the jobs that failed in the last run.")
    ] = False,
    needs: options.Needs = None,
    var: options.Variables = None,
    inputs: options.Inputs = None,
    matrix: options.Matrix = None,
    changes_base: options.ChangesBase = None,
    event: options.EventOption = options.Event.PUSH,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Print the plan and run nothing.")] = False,
    stream: options.Stream = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    color: options.Color = None,
    jobs: options.AtOnce = None,
    deploy: options.Deploy = None,
    fail_fast: Annotated[bool | None, typer.Option("--fail-fast", help="Stop everything at the first failure.")] = None,
    mount_mode: options.MountMode = None,
    strict: options.Strict = False,
    frozen: options.Frozen = None,
    pull: options.Pull = None,
    no_cache: options.NoCache = False,
    form: Annotated[
        Literal["screen", "json", "github", "gitlab"],
        typer.Option("--format", help="Output format; github and gitlab are for a CI system that runs loom."),
    ] = "screen",
    as_json: Annotated[bool, typer.Option("--json", help="Print events as JSON lines on standard output.")] = False,
    profile: Annotated[
        Path | None,
        typer.Option(
            "--profile",
            metavar="FILE",
            dir_okay=False,
            help="Write where the run's time goes to FILE, as a trace for ui.perfetto.dev or chrome://tracing.",
        ),
    ] = None,
    keep: options.Keep = None,
    shell_on_failure: options.ShellOnFailure = False,
    pause_on_failure: options.PauseOnFailure = False,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach", help="Leave when the first jobs run in a cluster; they go on there until `loom attach`."
        ),
    ] = False,
    no_delay: Annotated[bool, typer.Option("--no-delay", help="Start delayed jobs at once.")] = False,
    trust: options.Trust = False,
    break_before: Annotated[
        str | None,
        typer.Option(
            "--break-before",
            metavar="JOB[:STEP]",
            help="Open a shell before this step.",
            autocompletion=completion("workflow-job"),
        ),
    ] = None,
) -> None:
    """Run the workflow's jobs on a snapshot of the repository.

    Exit code: 0 when all passed, 1 when a job failed, 2 for an invalid request or workflow, 3 when the engine, an image
    or the snapshot is unavailable, 4 when a job timed out, 77 when a failed job is paused, 130, 143 or 129 when interrupted
    (INT, TERM, HUP).
    """
