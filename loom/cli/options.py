"""Arguments and options shared by several commands."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from loom.cli.command import completion

# -- of every command ---------------------------------------------------------------------------------------------

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
"""The convention: `--json` for a choice of text and JSON; additionally `--format` (as `form`) for more formats."""
Color = Annotated[
    str | None,
    typer.Option("--color", metavar="WHEN", help="auto, always or never.", autocompletion=completion("setting:color")),
]

# -- what to run --------------------------------------------------------------------------------------------------

Jobs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="JOB...", help="Only these jobs: names, ids or globs.", autocompletion=completion("workflow-job")
    ),
]
WorkflowFile = Annotated[
    Path | None,
    typer.Option(
        "--workflow", "-f", metavar="PATH", help="Workflow file (default: .loom/workflow.yml, else .gitlab-ci.yml)."
    ),
]
Container = Annotated[
    bool | None,
    typer.Option(
        "--container/--no-container",
        help="Run jobs without an image in a container of the default image, or on this machine without isolation.",
    ),
]
On = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="PLACE",
        help="Where jobs in containers run: PROVIDER[:CONTEXT] or a pool of your configuration (default: docker).",
        autocompletion=completion("place"),
    ),
]
Deploy = Annotated[
    bool | None,
    typer.Option("--deploy/--no-deploy", help="Run also the jobs of a .gitlab-ci.yml that deploy or release."),
]
Stages = Annotated[
    list[str] | None,
    typer.Option("--stage", metavar="STAGE", help="Only the jobs of this stage.", autocompletion=completion("stage")),
]
FromJob = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="JOB", help="This job and the jobs after it.", autocompletion=completion("workflow-job")
    ),
]
Needs = Annotated[
    bool | None,
    typer.Option(
        "--needs/--no-needs",
        help="Also run the jobs that the selected ones need or get artifacts from (default, but not with --from).",
    ),
]
Variables = Annotated[list[str] | None, typer.Option("--var", metavar="NAME=value", help="Set a variable.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=value",
        help="Set an input that `spec:inputs` of a .gitlab-ci.yml declares.",
        autocompletion=completion("input"),
    ),
]


class Event(StrEnum):
    PUSH = "push"
    MERGE_REQUEST = "merge_request"
    SCHEDULE = "schedule"
    TAG = "tag"
    WEB = "web"
    TRIGGER = "trigger"


EventOption = Annotated[
    Event, typer.Option("--event", help="The event of the pipeline, which rules read as CI_PIPELINE_SOURCE.")
]
Matrix = Annotated[
    list[str] | None,
    typer.Option("--matrix", metavar="KEY=value", help="Only this combination.", autocompletion=completion("matrix")),
]
ChangesBase = Annotated[
    str | None,
    typer.Option("--changes-base", metavar="REF", help="The commit that `changes:` compares with (default: HEAD)."),
]

# -- how to run it ------------------------------------------------------------------------------------------------

Trust = Annotated[
    bool,
    typer.Option("--trust", help="Allow, for this command only, all that the workflow asks for (see `loom trust`)."),
]
Stream = Annotated[bool | None, typer.Option("--stream", help="Show output live, each line with its job's name.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the receipt's path and the final status only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print image, engine and snapshot details.")]
Frozen = Annotated[bool | None, typer.Option("--frozen", help="Only images that .loom/images.lock names.")]
Keep = Annotated[
    str | None,
    typer.Option(
        "--keep",
        metavar="WHEN",
        help="Keep jobs' containers after the run: never, on-failure (default on a terminal) or always.",
        autocompletion=completion("setting:keep"),
    ),
]
ShellOnFailure = Annotated[
    bool, typer.Option("--shell-on-failure", help="Open a shell at a step that fails, then ask how to continue.")
]
PauseOnFailure = Annotated[
    bool,
    typer.Option(
        "--pause-on-failure",
        help="Leave a failed job at its failing step, before after_script, for `loom resume`; exit code 77.",
    ),
]
MountMode = Annotated[
    str | None,
    typer.Option(
        "--mount-mode",
        metavar="MODE",
        help="auto, bind_mount, overlay, copy or ephemeral_volume.",
        autocompletion=completion("setting:mount_mode"),
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Closest to CI: separate files per job, no undeclared network, locked images only (`loom images lock`).",
    ),
]
Pull = Annotated[
    str | None,
    typer.Option("--pull", metavar="WHEN", help="always, missing or never.", autocompletion=completion("setting:pull")),
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Neither restore nor save caches.")]
AtOnce = Annotated[int | None, typer.Option("--jobs", "-j", min=1, metavar="N", help="At most N jobs at once.")]

# -- an earlier run -----------------------------------------------------------------------------------------------

RUN_HELP = "A run: its id, a unique part of its beginning or end, a path, `last` or `last-failed`."
Run = Annotated[str, typer.Argument(metavar="RUN", help=RUN_HELP, show_default=False, autocompletion=completion("run"))]
RunName = Annotated[
    str | None, typer.Argument(metavar="RUN", help="A run (default: the last one).", autocompletion=completion("run"))
]
RunOrJob = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN",
        help="A run, or a job of the last run (default: the last run).",
        autocompletion=completion("run"),
    ),
]
JobOfRun = Annotated[
    str | None,
    typer.Argument(
        metavar="JOB", help="A job of the run (default: the failing one).", autocompletion=completion("job")
    ),
]
StepOfJob = Annotated[
    str | None,
    typer.Option("--step", metavar="N", help="A step (default: the failing one).", autocompletion=completion("step")),
]
