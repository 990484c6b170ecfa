"""Arguments and options shared by several commands."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from loom.cli.command import argument, option

# -- of every command ---------------------------------------------------------------------------------------------

AsJson = Annotated[bool, option("--json", "Print JSON.")]
"""The convention: `--json` for a choice of text and JSON; additionally `--format` (as `form`) for more formats."""
Color = Annotated[str | None, option("--color WHEN", "auto, always or never.", "setting:color")]

# -- what to run --------------------------------------------------------------------------------------------------

WorkflowFile = Annotated[
    Path | None,
    option(
        "--workflow -f PATH",
        "Workflow file (default: .loom/workflow.yml, else .gitlab-ci.yml, else .github/workflows).",
    ),
]
On = Annotated[
    str | None,
    option(
        "--on POOL",
        "Where jobs in containers run: PROVIDER[:CONTEXT] or a pool of your configuration (default: docker).",
        "place",
    ),
]
Variables = Annotated[list[str] | None, option("--var NAME=value", "Set a variable.")]
Inputs = Annotated[
    list[str] | None,
    option(
        "--input NAME=value",
        "Set an input that a .gitlab-ci.yml (`spec:inputs`) or GitHub's `workflow_dispatch` declares.",
    ),
]


Event = StrEnum(
    "Event",
    "push merge_request schedule tag web trigger pull_request pull_request_target workflow_dispatch release merge_group "
    "repository_dispatch workflow_run issues issue_comment create delete",
)


# -- how to run it ------------------------------------------------------------------------------------------------

Trust = Annotated[
    bool, option("--trust", "Allow, for this command only, all that the workflow asks for (see `loom trust`).")
]
Stream = Annotated[bool | None, option("--stream", "Show output live, each line with its job's name.")]
Quiet = Annotated[bool, option("--quiet -q", "Print the receipt's path and the final status only.")]
Verbose = Annotated[bool, option("--verbose -v", "Print image, engine and snapshot details.")]
Frozen = Annotated[bool | None, option("--frozen", "Only images that .loom/images.lock names.")]
Keep = Annotated[
    str | None,
    option(
        "--keep WHEN",
        "Keep jobs' containers after the run: never, on-failure (default on a terminal) or always.",
        "setting:keep",
    ),
]
StopAt = Annotated[
    list[str] | None,
    option(
        "--stop-at WHEN",
        "failure: open a shell at a step that fails, then ask how to continue. JOB[:STEP]: open a shell before this step."
        " pause: leave a failed job at its failing step, before after_script, for `loom resume`; exit code 77.",
        "stop",
    ),
]
Pull = Annotated[str | None, option("--pull WHEN", "always, missing or never.", "setting:pull")]
NoCache = Annotated[bool | None, option("--no-cache", "Neither restore nor save caches.")]
AtOnce = Annotated[int | None, option("--jobs -j N", "At most N jobs at once.", min=1)]


class PlanOptions:
    """Parameters of the commands that make a plan."""

    names: Annotated[list[str] | None, argument("JOB...", "Only these jobs: names, ids or globs.", "workflow-job")] = (
        None
    )
    container: Annotated[
        bool | None,
        option(
            "--container/--no-container",
            "Run jobs without an image in a container of the default image, or on this machine without isolation.",
        ),
    ] = None
    deploy: Annotated[
        bool | None,
        option("--deploy/--no-deploy", "Run also the jobs that deploy or release, of GitHub's and GitLab's files."),
    ] = None
    on: On = None
    workflow: WorkflowFile = None
    stage: Annotated[list[str] | None, option("--stage STAGE", "Only the jobs of this stage.", "stage")] = None
    from_job: Annotated[str | None, option("--from JOB", "This job and the jobs after it.", "workflow-job")] = None
    needs: Annotated[
        bool | None,
        option(
            "--needs/--no-needs",
            "Also run the jobs that the selected ones need or get artifacts from (default, but not with --from).",
        ),
    ] = None
    var: Variables = None
    inputs: Inputs = None
    matrix: Annotated[list[str] | None, option("--matrix KEY=value", "Only this combination.", "matrix")] = None
    changes_base: Annotated[
        str | None, option("--changes-base REF", "The commit that `changes:` compares with (default: HEAD).")
    ] = None
    event: Annotated[
        Event, option("--event", "The event that the run stands for, in the words of GitLab or GitHub.")
    ] = Event.push
    event_file: Annotated[
        Path | None, option("--event-file PATH", "The event's payload, in JSON, for GitHub's workflows.")
    ] = None


class RunOptions:
    """Parameters of the commands that run a plan."""

    stream: Stream = None
    verbose: Verbose = False
    color: Color = None
    jobs: AtOnce = None
    mount_mode: Annotated[
        str | None,
        option("--mount-mode MODE", "auto, bind_mount, overlay, copy or ephemeral_volume.", "setting:mount_mode"),
    ] = None
    strict: Annotated[
        bool,
        option(
            "--strict",
            "Closest to CI: separate files per job, no undeclared network, locked images only (`loom images lock`).",
        ),
    ] = False
    frozen: Frozen = None
    pull: Pull = None
    no_cache: NoCache = None
    keep: Keep = None
    stop_at: StopAt = None
    trust: Trust = False


# -- an earlier run -----------------------------------------------------------------------------------------------

RUN_HELP = "A run: its id, a unique part of its beginning or end, a path, a bundle, `last` or `last-failed`."
Run = Annotated[str, argument("RUN", RUN_HELP, "run", show_default=False)]
RunName = Annotated[str | None, argument("RUN", "A run (default: the last one).", "run")]
RunOrJob = Annotated[str | None, argument("RUN", "A run, or a job of the last run (default: the last run).", "run")]
JobOfRun = Annotated[str | None, argument("JOB", "A job of the run (default: the failing one).", "job")]
StepOfJob = Annotated[str | None, option("--step N", "A step (default: the failing one).", "step")]
