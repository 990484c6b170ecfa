"""Options that several commands have, declared once: what to run, of which file, and how much to say."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from loom.cli.record import (
    complete_job,
    complete_matrix,
    complete_run,
    complete_stage,
    complete_workflow_job,
    values_of,
)

Jobs = Annotated[
    list[str] | None,
    typer.Argument(metavar="JOB", help="Only these jobs: names, ids or globs.", autocompletion=complete_workflow_job),
]
WorkflowFile = Annotated[
    Path | None, typer.Option("--workflow", "-f", metavar="PATH", help="Another file than .loom/workflow.yml.")
]
Container = Annotated[
    bool | None,
    typer.Option(
        "--container/--no-container",
        help="Jobs without an image: in a container of the default image, or on this machine, without isolation.",
    ),
]
Stages = Annotated[
    list[str] | None,
    typer.Option("--stage", metavar="STAGE", help="Only the jobs of this stage.", autocompletion=complete_stage),
]
FromJob = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="JOB", help="This job and what comes after it.", autocompletion=complete_workflow_job
    ),
]
Needs = Annotated[
    bool | None,
    typer.Option(
        "--needs/--no-needs",
        help="Also run what the selected jobs need or get artifacts from (yes, but not with --from).",
    ),
]
Variables = Annotated[list[str] | None, typer.Option("--var", metavar="NAME=value", help="Set a variable.")]


class Event(StrEnum):
    PUSH = "push"
    MERGE_REQUEST = "merge_request"
    SCHEDULE = "schedule"
    TAG = "tag"
    WEB = "web"
    TRIGGER = "trigger"


EventOption = Annotated[
    Event, typer.Option("--event", help="What the run stands for: rules see CI_PIPELINE_SOURCE as CI would set it.")
]
Matrix = Annotated[
    list[str] | None,
    typer.Option("--matrix", metavar="KEY=value", help="Only this combination.", autocompletion=complete_matrix),
]
ChangesBase = Annotated[
    str | None,
    typer.Option("--changes-base", metavar="REF", help="What `changes:` compares with; HEAD if not given."),
]

RunOrJob = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN", help="A run, or a job of the last one; the last run if not given.", autocompletion=complete_run
    ),
]
JobOfRun = Annotated[
    str | None,
    typer.Argument(metavar="JOB", help="A job of it; the failing one if not given.", autocompletion=complete_job),
]

Trust = Annotated[
    bool,
    typer.Option("--trust", help="Allow all that the workflow asks for (`loom trust` lists it), for this one time."),
]
Stream = Annotated[bool | None, typer.Option("--stream", help="Show output live, with the job's name in front.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the receipt's path and the final status only.")]
Keep = Annotated[
    str | None,
    typer.Option(
        "--keep",
        metavar="WHEN",
        help="Keep jobs' containers to look into: never, on-failure (what a terminal gets) or always.",
        autocompletion=values_of("keep"),
    ),
]
