"""`loom check`, `loom compile`, `loom schema`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from loom.cli import options
from loom.cli.record import complete_document, complete_workflow_job
from loom.render.output import print_json


class CheckFormat(StrEnum):
    TEXT = "text"
    JSON = "json"
    GITHUB = "github"


class PlanFormat(StrEnum):
    YAML = "yaml"
    JSON = "json"
    MERMAID = "mermaid"


def register(app: typer.Typer) -> None:
    app.command("check")(check)
    app.command("compile")(compile_)
    app.command("schema")(schema)


def check(
    workflow: options.WorkflowFile = None,
    output: Annotated[CheckFormat, typer.Option("--format", help="How problems are shown.")] = CheckFormat.TEXT,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count: end with 1 if there are any.")] = False,
) -> None:
    """Check the workflow. Every error with its place, and what is legal but surely not meant.

    Ends with 0 when all is well, 1 for warnings with --strict, 2 for errors.
    """
    from loom.commands import check as checking

    raise SystemExit(checking.check(workflow, output.value, strict=strict))


def compile_(
    jobs: options.Jobs = None,
    workflow: options.WorkflowFile = None,
    output: Annotated[PlanFormat, typer.Option("--format", help="How the plan is shown.")] = PlanFormat.YAML,
    explain: Annotated[
        str | None,
        typer.Option(
            "--explain",
            metavar="JOB",
            help="Say where each value of this job came from.",
            autocompletion=complete_workflow_job,
        ),
    ] = None,
    container: options.Container = None,
    stage: options.Stages = None,
    from_job: options.FromJob = None,
    needs: options.Needs = None,
    var: options.Variables = None,
    matrix: options.Matrix = None,
    changes_base: options.ChangesBase = None,
    event: options.EventOption = options.Event.PUSH,
) -> None:
    """Print the plan. It is exactly what `loom run` with the same arguments would run."""
    from loom.commands import check as checking
    from loom.commands.project import selection

    chosen = selection(jobs=jobs, stages=stage, from_job=from_job, needs=needs, variables=var, matrix=matrix)
    raise SystemExit(
        checking.compile_(
            workflow,
            output.value,
            chosen,
            explain=explain,
            base=changes_base,
            event=event.value,
            container=container,
        )
    )


def schema(
    record: Annotated[
        str | None,
        typer.Option(
            "--record",
            metavar="NAME",
            help="Of a document of the record instead; `list` names them.",
            autocompletion=complete_document,
        ),
    ] = None,
) -> None:
    """Print the JSON Schema of workflow files, for editors. Or that of a document in a run's record."""
    if record is not None:
        _record_schema(record)
        return
    from loom.workflow.schema import workflow_schema

    print_json(workflow_schema())


def _record_schema(name: str) -> None:
    from loom.analysis import schemas
    from loom.errors import RequestError

    if name == "list":
        print("\n".join(schemas.NAMES))
        return
    if name not in schemas.NAMES:
        raise RequestError(f"there is no schema {name!r}", hint=f"there are: {', '.join(schemas.NAMES)}")
    print_json(schemas.record_schema(name))
