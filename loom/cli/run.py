"""`loom run`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from loom.cli.record import complete_workflow_job


class OutputFormat(StrEnum):
    SCREEN = "screen"
    JSON = "json"
    GITHUB = "github"
    GITLAB = "gitlab"


def register(app: typer.Typer) -> None:
    app.command("run")(run)


def run(
    jobs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[JOB]...",
            help="Only these jobs: names, ids or globs.",
            autocompletion=complete_workflow_job,
        ),
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Run on this machine, which is the only way there is.")
    ] = False,
    container: Annotated[bool, typer.Option("--container", help="Run every job in a container.")] = False,
    workflow: Annotated[
        Path | None, typer.Option("--workflow", "-f", metavar="PATH", help="Another file than .loom/workflow.yml.")
    ] = None,
    stage: Annotated[list[str] | None, typer.Option("--stage", help="Only the jobs of this stage.")] = None,
    from_job: Annotated[
        str | None, typer.Option("--from", metavar="JOB", help="This job and what comes after it.")
    ] = None,
    only_failed: Annotated[bool, typer.Option("--only-failed", help="Only what failed in the last run.")] = False,
    needs: Annotated[
        bool | None, typer.Option("--needs/--no-needs", help="Include what the selected jobs need.")
    ] = None,
    var: Annotated[list[str] | None, typer.Option("--var", metavar="NAME=value", help="Set a variable.")] = None,
    matrix: Annotated[
        list[str] | None, typer.Option("--matrix", metavar="KEY=value", help="Only this combination.")
    ] = None,
    changes_base: Annotated[
        str | None,
        typer.Option("--changes-base", metavar="REF", help="What `changes:` compares with; HEAD if not given."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Print the plan and run nothing.")] = False,
    stream: Annotated[bool, typer.Option("--stream", help="Show output live, with the job's name in front.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print the receipt's path and the final status only.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say what the run is made of.")] = False,
    color: Annotated[str | None, typer.Option("--color", metavar="WHEN", help="auto, always or never.")] = None,
    jobs_at_once: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, metavar="N", help="At most N jobs at once.")
    ] = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop everything at the first failure.")] = False,
    mount_mode: Annotated[
        str | None, typer.Option("--mount-mode", metavar="MODE", help="bind_mount, overlay or ephemeral_volume.")
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Nearest to CI: a view of its own for each job, no undeclared network, locked images only (`loom images lock`).",
        ),
    ] = False,
    frozen: Annotated[bool, typer.Option("--frozen", help="Only images that .loom/images.lock names.")] = False,
    pull: Annotated[str | None, typer.Option("--pull", metavar="WHEN", help="always, missing or never.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither restore nor save caches.")] = False,
    cache_diff: Annotated[
        bool,
        typer.Option(
            "--cache-diff", help="Run twice, without caches and with them, and name the keys that change the outcome."
        ),
    ] = False,
    output: Annotated[
        OutputFormat, typer.Option("--format", help="For a CI system that loom itself runs in: groups, annotations.")
    ] = OutputFormat.SCREEN,
    as_json: Annotated[bool, typer.Option("--json", help="Events as JSON lines on standard output.")] = False,
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep",
            metavar="WHEN",
            help="Keep jobs' containers to look into: never, on-failure (what a terminal gets) or always.",
        ),
    ] = None,
    shell_on_failure: Annotated[
        bool, typer.Option("--shell-on-failure", help="Open a shell at a step that fails, then ask how to go on.")
    ] = False,
    break_before: Annotated[
        str | None, typer.Option("--break-before", metavar="JOB[:STEP]", help="Open a shell before this step.")
    ] = None,
) -> None:
    """Run the workflow's jobs on a snapshot of the repository.

    Ends with 0 when all passed, 1 when a job failed, 2 when the request or the workflow is wrong, 3 when the engine, an
    image or the snapshot could not be had, 4 when a job ran out of time, 130 or 143 when interrupted.
    """
    from loom.cli import running

    _ = local  # said for clarity, and for the day when there is another way
    raise SystemExit(
        running.run(
            running.Options(
                jobs=tuple(jobs or ()),
                container=container,
                workflow=workflow,
                stages=tuple(stage or ()),
                from_job=from_job,
                only_failed=only_failed,
                needs=needs,
                variables=tuple(var or ()),
                matrix=tuple(matrix or ()),
                changes_base=changes_base,
                dry_run=dry_run,
                stream=stream,
                quiet=quiet,
                verbose=verbose,
                color=color,
                jobs_at_once=jobs_at_once,
                fail_fast=fail_fast,
                mount_mode=mount_mode,
                strict=strict,
                frozen=frozen,
                pull=pull,
                no_cache=no_cache,
                cache_diff=cache_diff,
                output="json" if as_json else output.value,
                keep=keep,
                shell_on_failure=shell_on_failure,
                break_before=break_before,
            )
        )
    )
