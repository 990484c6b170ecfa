"""Commands that run again what ran before, here or elsewhere, and those that stay and run it many times: `watch`, `mcp`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from loom.cli import options
from loom.cli.command import argument, done_by, option
from loom.cli.help import GroupedCommand


class ResumeCommand(GroupedCommand):
    """Takes `--sync` with a value or without."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, ["--sync=ask" if word == "--sync" else word for word in args])


CLASSES = {"resume": ResumeCommand}


@done_by("again.resume", takes=(options.AgainOptions,))
def resume(
    run: str | None = options.RUN_NAME,
    from_step: str | None = option(
        "--from JOB[:STEP]", "The job and step to continue from (default: where it failed).", "job"
    ),
    sync: Literal["ask", "theirs", "ours"] | None = option(
        "--sync [=theirs|ours]",
        "First bring what changed in the checkout since the last sync into the job's files. Of a file that the job"
        " changed as well, take the checkout's (theirs) or keep the job's (ours); else nothing is changed.",
    ),
    jobs: int | None = options.AT_ONCE,
    keep: str | None = options.KEEP,
    stop_at: list[str] | None = options.STOP_AT,
) -> None:
    """Continue a failed run from the steps that failed. Then run the jobs that depend on these.

    A job continues in its kept container. The differences between its files and the snapshot are saved in the record first.
    """


@done_by("again.attach", takes=(options.AgainOptions,))
def attach(
    run: str | None = options.RUN_NAME,
    jobs: int | None = options.AT_ONCE,
) -> None:
    """Follow a detached run to its end. Completes its record: the output of its jobs comes from their pods.

    Jobs that have not started begin now. ^C cancels the run; closing the terminal leaves it as it is.

    Exit code: the run's, as for `loom run`.
    """


@done_by("again.rerun", takes=(options.AgainOptions,))
def rerun(
    run: str | None = options.RUN_NAME,
    failed: bool = option("--failed", "Only the jobs that failed or were skipped, and what depends on them."),
    fresh: bool = option("--fresh", "Use a new snapshot of the checkout and its present workflow."),
    keep: str | None = options.KEEP,
) -> None:
    """Run a run's jobs again from the start, on the same snapshot."""


@done_by("again.bisect", takes=(options.VariableOptions, options.PrintOptions))
def bisect(
    job: str = argument("JOB", "The job: a name, id or glob.", "workflow-job", default=...),
    good: str = argument("GOOD", "A commit in which the job passes.", default=...),
    bad: str = argument("BAD", "A later commit in which it fails.", default="HEAD"),
    container: bool | None = options.CONTAINER,
    on: str | None = options.ON,
    workflow: str | None = option("--workflow -f PATH", "Workflow file, from the root of the checkout."),
    needs: bool | None = option("--needs/--no-needs", "Also run the jobs that it needs (default)."),
    jobs: int | None = option("--jobs -j N", "Run N commits at once (default: 1).", min=1, max=64),
    pull: str | None = options.PULL,
    no_cache: bool | None = options.NO_CACHE,
    trust: bool = options.TRUST,
) -> None:
    """Find the commit since which a job fails, by git's bisection. The checkout is not touched.

    A commit is skipped when its workflow can't be planned, or the job ends with exit code 125. An interrupted command goes
    on when it is given again. Exit code: 0 when the commit is found, 2 when only skipped ones are left.
    """


@done_by("again.reproduce", takes=(options.VariableOptions, options.PrintOptions))
def reproduce(
    url: str | None = argument("URL", "The address of a job, pipeline or run on GitLab or GitHub.", show_default=False),
    last: bool = option("--last", "The first failed job of this branch's newest red pipeline at origin."),
    with_cache: bool = option("--with-cache", "Restore caches (default: they are left cold)."),
    deploy: bool = option("--deploy", "Run it also if it deploys or releases."),
    tries: list[str] | None = option(
        "--try FACT", "Run it once more with this fact as it was there (TZ=UTC, cpus=2, known), and say if it decides."
    ),
    keep: str | None = options.KEEP,
    trust: bool = options.TRUST,
    quiet: bool = options.QUIET,
) -> None:
    """Run a red job of a CI server here, and say whether it fails in the same way.

    On the same commit, event, variables, image and artifacts, in a checkout of loom's own. Exit code: that of the run.
    """


@done_by("record.bundle")
def bundle(
    run: str = options.RUN,
    output: Path | None = option("--output -o FILE", "The file to write (default: loom-RUN.bundle here)."),
    full: bool = option("--full", "With the whole history, for somebody without a clone."),
    base: str | None = option("--base REV", "A commit that the other one has (default: what the remotes had)."),
    without_secret_check: bool = option(
        "--without-secret-check", "Do not search what goes out for the values of secrets; the bundle says so."
    ),
) -> None:
    """Pack a run into one file that somebody else can look at and run again.

    It has the record with the plan, the files that ran, actions, and the digests of the images; of secrets, the names.
    `loom show`, `diagnose`, `logs`, `report` and `diff` read it, `loom replay` runs it.
    """


@done_by("again.replay", takes=(options.PrintOptions,))
def replay(
    file: Path = argument("FILE", "A bundle.", default=...),
    repeat: int | None = options.REPEAT,
    keep: str | None = options.KEEP,
    jobs: int | None = options.AT_ONCE,
    pull: str | None = options.PULL,
    trust: bool = options.TRUST,
    quiet: bool = options.QUIET,
) -> None:
    """Run what a bundle holds again, and tell whether it fails in the same way.

    The files come from the bundle and the clone that you are in; your checkout is not touched. loom asks before it runs
    what a stranger wrote. Exit code: that of the run.
    """


@done_by("run.watch", takes=(options.PlanOptions, options.RunOptions))
def watch(
    everything: bool = option("--all", "Run all jobs at each change, from the start, not first those that failed."),
    poll: bool = option("--poll", "Look at every file each second: for file systems that report no changes."),
) -> None:
    """Run the workflow's jobs, and again each time that a file changes.

    What git ignores does not count. Jobs that failed run first, then those that wait for them, then the rest; a job whose
    `rules: changes` do not name what changed is left out. Keys: r run, f failed jobs only, s shell into the failure, q quit.
    """


@done_by("agents.mcp")
def mcp(
    read_only: bool = option("--read-only", "Only look: no runs, no commands in jobs, no resume."),
    job: list[str] | None = option(
        "--job PATTERN", "The jobs that may run, by name or glob (repeatable; default: all).", "workflow-job"
    ),
    allow_host: bool = option("--allow-host", "Allow jobs on this machine, outside of containers."),
    allow_privileged: bool = option(
        "--allow-privileged", "Allow privileged jobs, devices, and jobs with the engine's socket."
    ),
    allow_network: bool = option(
        "--allow-network", "Allow jobs a network. Else they have none, apart from their services."
    ),
    workflow: Path | None = options.WORKFLOW_FILE,
) -> None:
    """Serve a coding agent: a Model Context Protocol server on standard input and output.

    Its tools check and run the workflow, explain failures, search logs, run commands in a failed job, continue it, and
    show its changes. Answers are short; the agent asks for more. The options set what the agent may do. Needs the extra
    `mcp` (pipx install '.[mcp]' in a checkout of loom).
    """
