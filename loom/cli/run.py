"""`loom run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RUN_PANEL = "How to run"


def register(app: typer.Typer) -> None:
    app.command("run")(run)


def run(
    jobs: Annotated[
        list[str] | None, typer.Argument(metavar="[JOB]...", help="Only these jobs (names or globs).")
    ] = None,
    local: Annotated[bool, typer.Option("--local", help="Run on this machine (the only way there is today).")] = False,
    container: Annotated[bool, typer.Option("--container", help="Run every job in a container.")] = False,
    workflow: Annotated[Path | None, typer.Option("--workflow", metavar="PATH", help="The workflow file.")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Show output live, with the job's name in front.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the receipt's path and the status only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what the run is made of.")] = False,
    jobs_at_once: Annotated[
        int | None, typer.Option("-j", "--jobs", min=1, help="At most this many jobs at once.")
    ] = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop everything at the first failure.")] = False,
    mount_mode: Annotated[
        str | None, typer.Option("--mount-mode", help="bind_mount, overlay or ephemeral_volume.")
    ] = None,
) -> None:
    """Run the workflow's jobs on a snapshot of the repository."""
    from loom.cli import running

    raise SystemExit(
        running.run(
            running.Options(
                jobs=tuple(jobs or ()),
                local=local,
                container=container,
                workflow=workflow,
                stream=stream,
                quiet=quiet,
                verbose=verbose,
                jobs_at_once=jobs_at_once,
                fail_fast=fail_fast,
                mount_mode=mount_mode,
            )
        )
    )
