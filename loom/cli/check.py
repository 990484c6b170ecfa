"""`loom check`, `compile`, `schema`, `trust`: inspect the workflow without running it."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from loom.cli import options
from loom.cli.command import completion, done_by


@done_by("run.check")
def check(
    workflow: options.WorkflowFile = None,
    form: Annotated[Literal["text", "json", "github"], typer.Option("--format", help="Output format.")] = "text",
    as_json: options.AsJson = False,
    inputs: options.Inputs = None,
    strict: Annotated[bool, typer.Option("--strict", help="Treat warnings as failures: end with 1.")] = False,
) -> None:
    """Check the workflow. Lists every error with its place, and valid but doubtful values.

    Exit code: 0 without errors, 1 for warnings with --strict, 2 for errors.
    """


@done_by("run.compile")
def compile_(
    jobs: options.Jobs = None,
    workflow: options.WorkflowFile = None,
    form: Annotated[Literal["yaml", "json", "mermaid"], typer.Option("--format", help="Output format.")] = "yaml",
    as_json: options.AsJson = False,
    explain: Annotated[
        str | None,
        typer.Option(
            "--explain",
            metavar="JOB",
            help="Show where each value of this job comes from.",
            autocompletion=completion("workflow-job"),
        ),
    ] = None,
    container: options.Container = None,
    deploy: options.Deploy = None,
    on: options.On = None,
    stage: options.Stages = None,
    from_job: options.FromJob = None,
    needs: options.Needs = None,
    var: options.Variables = None,
    inputs: options.Inputs = None,
    matrix: options.Matrix = None,
    changes_base: options.ChangesBase = None,
    event: options.EventOption = options.Event.PUSH,
) -> None:
    """Print the plan. `loom run` with the same arguments runs exactly this plan."""


@done_by("record.schema")
def schema(
    record: Annotated[
        str | None,
        typer.Option(
            "--record",
            metavar="NAME",
            help="Print the schema of this document of a run's record; `list` prints the names.",
            autocompletion=completion("document"),
        ),
    ] = None,
) -> None:
    """Print the JSON Schema of workflow files, for editors. With --record, of a document in a run's record."""


@done_by("keep.trust")
def trust(
    workflow: options.WorkflowFile = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Allow it without a question.")] = False,
    revoke: Annotated[bool, typer.Option("--revoke", help="Revoke what was allowed here.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Show and allow what this repository requests. Covers everything beyond a plain container.

    The decision is stored outside the repository. It covers exactly the listed requests; a later change needs a new
    decision.
    """
