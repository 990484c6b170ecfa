"""`loom check`, `loom compile`, `loom schema`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from loom.cli.record import complete_workflow_job


class CheckFormat(StrEnum):
    TEXT = "text"
    JSON = "json"
    GITHUB = "github"
    SARIF = "sarif"


class PlanFormat(StrEnum):
    YAML = "yaml"
    JSON = "json"
    MERMAID = "mermaid"
    DOT = "dot"


WorkflowOption = Annotated[
    Path | None,
    typer.Option("--workflow", "-f", metavar="PATH", help="The workflow file; .loom/workflow.yml if not given."),
]


def register(app: typer.Typer) -> None:
    app.command("check")(check)
    app.command("compile")(compile_)
    app.command("schema")(schema)


def check(
    workflow: WorkflowOption = None,
    output: Annotated[CheckFormat, typer.Option("--format", help="How problems are shown.")] = CheckFormat.TEXT,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count: end with 1 if there are any.")] = False,
    receipt: Annotated[bool, typer.Option("--receipt/--no-receipt", help="Leave a receipt of the check.")] = True,
) -> None:
    """Check the workflow: every error with its place, and what is legal but surely not meant.

    Ends with 0 when all is well, 1 for warnings with --strict, 2 for errors.
    """
    from loom.cli import checking

    raise SystemExit(checking.check(workflow, output.value, strict=strict, receipt=receipt))


def compile_(
    jobs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[JOB]...",
            help="Only these jobs: names, ids or globs.",
            autocompletion=complete_workflow_job,
        ),
    ] = None,
    workflow: WorkflowOption = None,
    output: Annotated[PlanFormat, typer.Option("--format", help="How the plan is shown.")] = PlanFormat.YAML,
    explain: Annotated[
        str | None, typer.Option("--explain", metavar="JOB", help="Say where each value of this job came from.")
    ] = None,
    container: Annotated[bool, typer.Option("--container", help="Every job in a container.")] = False,
    stage: Annotated[list[str] | None, typer.Option("--stage", help="Only the jobs of this stage.")] = None,
    from_job: Annotated[
        str | None, typer.Option("--from", metavar="JOB", help="This job and what comes after it.")
    ] = None,
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
) -> None:
    """Print the plan: exactly what `loom run` with the same arguments would run."""
    from loom.cli import checking
    from loom.cli.surroundings import selection

    chosen = selection(
        jobs=jobs, stages=stage, from_job=from_job, needs=needs, variables=var, matrix=matrix, container=container
    )
    raise SystemExit(checking.compile_(workflow, output.value, chosen, explain=explain, base=changes_base))


def schema(
    record: Annotated[
        str | None,
        typer.Option("--record", metavar="NAME", help="Of a document of the record instead; `list` names them."),
    ] = None,
) -> None:
    """Print the JSON Schema of workflow files, for editors; or that of a document in a run's record."""
    import json

    if record is not None:
        _record_schema(record)
        return
    from loom.workflow.schema import workflow_schema

    print(json.dumps(workflow_schema(), indent=2, ensure_ascii=False))


def _record_schema(name: str) -> None:
    import json

    from loom import schemas
    from loom.errors import RequestError

    if name == "list":
        print("\n".join(schemas.NAMES))
        return
    if name not in schemas.NAMES:
        raise RequestError(f"there is no schema {name!r}", hint=f"there are: {', '.join(schemas.NAMES)}")
    print(json.dumps(schemas.record_schema(name), indent=2, ensure_ascii=False))
