"""`loom check`, `compile`, `schema`, `trust`: inspect the workflow without running it."""

from __future__ import annotations

from typing import Annotated, Literal

from loom.cli import options
from loom.cli.command import done_by, option


@done_by("run.check")
def check(
    workflow: options.WorkflowFile = None,
    form: Annotated[Literal["text", "json", "github"], option("--format", "Output format.")] = "text",
    as_json: options.AsJson = False,
    inputs: options.Inputs = None,
    strict: Annotated[bool, option("--strict", "Treat warnings as failures: end with 1.")] = False,
) -> None:
    """Check the workflow. Lists every error with its line, and valid but doubtful values.

    Exit code: 0 without errors, 1 for warnings with --strict, 2 for errors.
    """


@done_by("run.compile", takes=(options.PlanOptions,))
def compile_(
    form: Annotated[Literal["yaml", "json"], option("--format", "Output format.")] = "yaml",
    as_json: options.AsJson = False,
    explain: Annotated[
        str | None, option("--explain JOB", "Show where each value of this job comes from.", "workflow-job")
    ] = None,
) -> None:
    """Print the plan. `loom run` with the same arguments runs exactly this plan."""


@done_by("record.schema")
def schema(
    record: Annotated[
        str | None,
        option(
            "--record NAME", "Print the schema of this document of a run's record; `list` prints the names.", "document"
        ),
    ] = None,
) -> None:
    """Print the JSON Schema of workflow files, for editors. With --record, of a document in a run's record."""


@done_by("keep.trust")
def trust(
    workflow: options.WorkflowFile = None,
    yes: Annotated[bool, option("--yes -y", "Allow it without a question.")] = False,
    revoke: Annotated[bool, option("--revoke", "Revoke what was allowed here.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Show and allow what this repository requests. Covers everything beyond a plain container.

    The decision is stored outside the repository. It covers exactly the listed requests; a later change needs a new
    decision.
    """
