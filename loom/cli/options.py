"""Arguments and options shared by several commands."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from loom.cli.command import argument, option

# -- of every command ---------------------------------------------------------------------------------------------

AS_JSON = option("--json", "Print JSON.")
"""The convention: `--json` for a choice of text and JSON; additionally `--format` (as `form`) for more formats."""
COLOR = option("--color WHEN", "auto, always or never.", "setting:color")


class PrintOptions:
    """Parameters of the commands that print a document, or lines with colours."""

    as_json: bool = AS_JSON
    color: str | None = COLOR


# -- what to run --------------------------------------------------------------------------------------------------

WORKFLOW_FILE = option(
    "--workflow -f PATH", "Workflow file (default: .loom/workflow.yml, else .gitlab-ci.yml, else .github/workflows)."
)
ON = option(
    "--on POOL",
    "Where jobs in containers run: docker (the default), kubernetes[:CONTEXT], or one of `pools` in your settings.",
    "pool",
)
CONTAINER = option(
    "--container/--no-container",
    "Run jobs without an image in a container of the default image, or on this machine without isolation.",
)
INPUTS = option(
    "--input NAME=value", "Set an input that a .gitlab-ci.yml (`spec:inputs`) or GitHub's `workflow_dispatch` declares."
)


class VariableOptions:
    """Parameters of the commands that give variables and inputs to a run."""

    var: list[str] | None = option("--var NAME=value", "Set a variable.")
    inputs: list[str] | None = INPUTS


Event = StrEnum(
    "Event",
    "push merge_request schedule tag web trigger pull_request pull_request_target pull_request_review "
    "pull_request_review_comment workflow_dispatch release merge_group repository_dispatch workflow_run issues issue_comment "
    "create delete",
)


# -- how to run it ------------------------------------------------------------------------------------------------

TRUST = option("--trust", "Allow, for this command only, all that the workflow asks for (see `loom trust`).")
STREAM = option("--stream", "Show output live, each line with its job's name.")
QUIET = option("--quiet -q", "Print only how the run ended, and the path of its receipt: the result as a JSON file.")
VERBOSE = option("--verbose -v", "Print image, engine and snapshot details.")
FROZEN = option("--frozen", "Only images that .loom/images.lock names.")
KEEP = option(
    "--keep WHEN",
    "Keep jobs' containers after the run: never, on-failure (default on a terminal) or always.",
    "setting:keep",
)
STOP_AT = option(
    "--stop-at WHEN",
    "failure: open a shell at a step that fails, then ask how to continue. JOB[:STEP]: open a shell before this step."
    " pause: leave a failed job at its failing step, before after_script, for `loom resume`; exit code 77.",
    "stop",
)
PULL = option("--pull WHEN", "always, missing or never.", "setting:pull")
NO_CACHE = option("--no-cache", "Neither restore nor save caches.")
REPEAT = option("--repeat N", "Run it N times on one snapshot, and tell how often it fails, and how.", min=2, max=1000)
AT_ONCE = option("--jobs -j N", "At most N jobs at once.", min=1)


class PlanOptions(VariableOptions):
    """Parameters of the commands that make a plan."""

    names: list[str] | None = argument("JOB...", "Only these jobs: names, ids or globs.", "workflow-job")
    container: bool | None = CONTAINER
    deploy: bool | None = option(
        "--deploy/--no-deploy", "Run also the jobs that deploy or release, of GitHub's and GitLab's files."
    )
    on: str | None = ON
    images: list[str] | None = option(
        "--image NAME=IMAGE",
        "Run IMAGE where the workflow names NAME: an image, or a label of GitHub's runners.",
        "image",
    )
    workflow: Path | None = WORKFLOW_FILE
    stage: list[str] | None = option("--stage STAGE", "Only the jobs of this stage.", "stage")
    from_job: str | None = option("--from JOB", "This job and the jobs after it.", "workflow-job")
    needs: bool | None = option(
        "--needs/--no-needs",
        "Also run the jobs that the selected ones need or get artifacts from (default, but not with --from).",
    )
    matrix: list[str] | None = option("--matrix KEY=value", "Only this combination.", "matrix")
    changes_base: str | None = option("--changes-base REF", "The commit that `changes:` compares with (default: HEAD).")
    event: Event = option(
        "--event EVENT",
        "The event that the run stands for, in the words of GitLab or GitHub: push, merge_request, pull_request, tag, schedule, "
        "workflow_dispatch and others.",
        default=Event.push,
    )
    secret_file: Path | None = option(
        "--secret-file FILE",
        "Secrets for this command: lines NAME=value. GitLab's and GitHub's files find them by name.",
    )
    event_file: Path | None = option("--event-file PATH", "The event's payload, in JSON, for GitHub's workflows.")


class RunOptions:
    """Parameters of the commands that run a plan."""

    stream: bool | None = STREAM
    verbose: bool = VERBOSE
    color: str | None = COLOR
    jobs: int | None = AT_ONCE
    mount_mode: str | None = option(
        "--mount-mode MODE",
        "How a job gets the files: auto (the default), bind_mount (shared by all jobs), overlay, copy or ephemeral_volume.",
        "setting:mount_mode",
    )
    strict: bool = option(
        "--strict",
        "Closest to CI: separate files per job, no undeclared network, locked images only (`loom images lock`).",
    )
    frozen: bool | None = FROZEN
    pull: str | None = PULL
    no_cache: bool | None = NO_CACHE
    keep: str | None = KEEP
    stop_at: list[str] | None = STOP_AT
    trust: bool = TRUST
    allow_unmerged: bool = option("--allow-unmerged", "Run files in conflict as they are on disk.")


class AgainOptions:
    """Parameters of the commands that go on with an earlier run, or repeat it."""

    stream: bool | None = STREAM
    quiet: bool = QUIET
    trust: bool = TRUST


# -- an earlier run -----------------------------------------------------------------------------------------------

RUN_HELP = "A run: its id, a unique part of its beginning or end, a path, a bundle, `last` or `last-failed`."
RUN = argument("RUN", RUN_HELP, "run", show_default=False, default="last")
RUN_NAME = argument("RUN", "A run (default: the last one).", "run")
RUN_OR_JOB = argument("RUN", "A run, or a job of the last run (default: the last run).", "run")
JOB_OF_RUN = argument("JOB", "A job of the run (default: the failing one).", "job")
STEP_OF_JOB = option("--step N", "A step (default: the failing one).", "step")
