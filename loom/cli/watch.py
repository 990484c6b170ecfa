"""`loom watch`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from loom.cli import options
from loom.cli.command import done_by


@done_by("run.watch")
def watch(
    names: options.Jobs = None,
    container: options.Container = None,
    deploy: options.Deploy = None,
    on: options.On = None,
    workflow: options.WorkflowFile = None,
    stage: options.Stages = None,
    from_job: options.FromJob = None,
    needs: options.Needs = None,
    var: options.Variables = None,
    inputs: options.Inputs = None,
    matrix: options.Matrix = None,
    changes_base: options.ChangesBase = None,
    event: options.EventOption = options.Event.PUSH,
    everything: Annotated[
        bool, typer.Option("--all", help="Run all jobs at each change, from the start, not first those that failed.")
    ] = False,
    on_failure: Annotated[
        Literal["shell"] | None,
        typer.Option(
            "--on-failure", metavar="shell", help="Open a shell at a step that fails, then ask how to continue."
        ),
    ] = None,
    poll: Annotated[
        bool, typer.Option("--poll", help="Look at every file each second: for file systems that report no changes.")
    ] = False,
    stream: options.Stream = None,
    verbose: options.Verbose = False,
    color: options.Color = None,
    jobs: options.AtOnce = None,
    mount_mode: options.MountMode = None,
    strict: options.Strict = False,
    frozen: options.Frozen = None,
    pull: options.Pull = None,
    no_cache: options.NoCache = False,
    keep: options.Keep = None,
    trust: options.Trust = False,
) -> None:
    """Run the workflow's jobs, and again each time that a file changes.

    What git ignores does not count. Jobs that failed run first, then those that wait for them, then the rest; a job whose
    `rules: changes` do not name what changed is left out. Keys: r run, f failed jobs only, s shell into the failure, o open the
    report, q quit.
    """
