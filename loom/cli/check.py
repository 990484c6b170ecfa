"""`loom init`, `jobs`, `check`, `compile`, `schema`, `trust`: inspect the workflow without running it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from loom.cli import options
from loom.cli.command import done_by, option


@done_by("plan.init")
def init(
    print_only: bool = option("--print", "Print a draft and write nothing, also where the project has a workflow."),
) -> None:
    """Say what CI workflow of this project runs, or draft a first one in .loom/workflow.yml. Never replaces a file."""


@done_by("plan.jobs", takes=(options.PlanOptions,))
def jobs(as_json: bool = options.AS_JSON) -> None:
    """List the workflow's jobs. Each with its stage, when it runs or why it is left out, its image, and its needs."""


@done_by("plan.check")
def check(
    workflow: Path | None = options.WORKFLOW_FILE,
    form: Literal["text", "json", "github"] = option("--format", "Output format.", default="text"),
    as_json: bool = options.AS_JSON,
    inputs: list[str] | None = options.INPUTS,
    strict: bool = option("--strict", "Treat warnings as failures: end with 1."),
) -> None:
    """Check the workflow. Lists every error with its line, and valid but doubtful values.

    Exit code: 0 without errors, 1 for warnings with --strict, 2 for errors.
    """


@done_by("plan.compile", takes=(options.PlanOptions,))
def compile_(
    form: Literal["yaml", "json"] = option("--format", "Output format.", default="yaml"),
    as_json: bool = options.AS_JSON,
    explain: str | None = option("--explain JOB", "Show where each value of this job comes from.", "workflow-job"),
) -> None:
    """Print the plan. `loom run` with the same arguments runs exactly this plan."""


@done_by("record.schema")
def schema(
    record: str | None = option(
        "--record NAME", "Print the schema of this document of a run's record; `list` prints the names.", "document"
    ),
) -> None:
    """Print the JSON Schema of workflow files, for editors. With --record, of a document in a run's record."""


@done_by("keep.trust")
def trust(
    workflow: Path | None = options.WORKFLOW_FILE,
    yes: bool = option("--yes -y", "Allow it without a question."),
    revoke: bool = option("--revoke", "Revoke what was allowed here."),
    as_json: bool = options.AS_JSON,
) -> None:
    """Show and allow what this repository requests. Covers everything beyond a plain container.

    The decision is stored outside the repository. It covers exactly the listed requests; a later change needs a new
    decision.
    """
