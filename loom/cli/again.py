"""Commands that run again what ran before, here or elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from typer.core import TyperCommand

from loom.cli import options
from loom.cli.command import argument, done_by, option


class ResumeCommand(TyperCommand):
    """Takes `--sync` with a value or without."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, ["--sync=ask" if word == "--sync" else word for word in args])


CLASSES = {"resume": ResumeCommand}


@done_by("inside.resume")
def resume(
    run: options.RunName = None,
    from_step: Annotated[
        str | None, option("--from JOB[:STEP]", "The job and step to continue from (default: where it failed).", "job")
    ] = None,
    sync: Annotated[
        Literal["ask", "theirs", "ours"] | None,
        option(
            "--sync [=theirs|ours]",
            "First bring what changed in the checkout since the last sync into the job's files. Of a file that the job"
            " changed as well, take the checkout's (theirs) or keep the job's (ours); else nothing is changed.",
        ),
    ] = None,
    stream: options.Stream = None,
    quiet: options.Quiet = False,
    jobs: options.AtOnce = None,
    keep: options.Keep = None,
    stop_at: options.StopAt = None,
    trust: options.Trust = False,
) -> None:
    """Continue a failed run from the steps that failed. Then run the jobs that depend on these.

    A job continues in its kept container. The differences between its files and the snapshot are saved in the record first.
    """


@done_by("run.attach")
def attach(
    run: options.RunName = None,
    stream: options.Stream = None,
    quiet: options.Quiet = False,
    jobs: options.AtOnce = None,
    trust: options.Trust = False,
) -> None:
    """Follow a detached run to its end. Completes its record: the output of its jobs comes from their pods.

    Jobs that have not started begin now. ^C cancels the run; closing the terminal leaves it as it is.

    Exit code: the run's, as for `loom run`.
    """


@done_by("inside.resume")
def rerun(
    run: options.RunName = None,
    failed: Annotated[
        bool, option("--failed", "Only the jobs that failed or were skipped, and what depends on them.")
    ] = False,
    fresh: Annotated[bool, option("--fresh", "Use a new snapshot of the checkout and its present workflow.")] = False,
    stream: options.Stream = None,
    quiet: options.Quiet = False,
    keep: options.Keep = None,
    trust: options.Trust = False,
) -> None:
    """Run a run's jobs again from the start, on the same snapshot."""


@done_by("run.bisect")
def bisect(
    job: Annotated[str, argument("JOB", "The job: a name, id or glob.", "workflow-job")],
    good: Annotated[str, argument("GOOD", "A commit in which the job passes.")],
    bad: Annotated[str, argument("BAD", "A later commit in which it fails.")] = "HEAD",
    container: Annotated[bool | None, option("--container/--no-container", "As for `loom run`.")] = None,
    on: options.On = None,
    workflow: Annotated[
        str | None, option("--workflow -f PATH", "Workflow file, from the root of the checkout.")
    ] = None,
    needs: Annotated[bool | None, option("--needs/--no-needs", "Also run the jobs that it needs (default).")] = None,
    var: options.Variables = None,
    inputs: options.Inputs = None,
    jobs: Annotated[int | None, option("--jobs -j N", "Run N commits at once (default: 1).", min=1, max=64)] = None,
    pull: options.Pull = None,
    no_cache: options.NoCache = None,
    trust: options.Trust = False,
    as_json: options.AsJson = False,
    color: options.Color = None,
) -> None:
    """Find the commit since which a job fails, by git's bisection. The checkout is not touched.

    A commit is skipped when its workflow can't be planned, or the job ends with exit code 125. An interrupted command goes
    on when it is given again. Exit code: 0 when the commit is found, 2 when only skipped ones are left.
    """


@done_by("run.reproduce")
def reproduce(
    url: Annotated[
        str | None, argument("URL", "The address of a job, pipeline or run on GitLab or GitHub.", show_default=False)
    ] = None,
    last: Annotated[
        bool, option("--last", "The first failed job of this branch's newest red pipeline at origin.")
    ] = False,
    with_cache: Annotated[bool, option("--with-cache", "Restore caches (default: they are left cold).")] = False,
    var: options.Variables = None,
    inputs: options.Inputs = None,
    keep: options.Keep = None,
    trust: options.Trust = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
    color: options.Color = None,
) -> None:
    """Run a red job of a CI server here, and say whether it fails in the same way.

    On the same commit, event, variables, image and artifacts, in a checkout of loom's own. Exit code: that of the run.
    """


@done_by("record.bundle")
def bundle(
    run: options.Run = "last",
    output: Annotated[
        Path | None, option("--output -o FILE", "The file to write (default: loom-RUN.bundle here).")
    ] = None,
    full: Annotated[bool, option("--full", "With the whole history, for somebody without a clone.")] = False,
    base: Annotated[
        str | None, option("--base REV", "A commit that the other one has (default: what the remotes had).")
    ] = None,
) -> None:
    """Pack a run into one file that somebody else can look at and run again.

    It has the record with the plan, the files that ran, actions, and the digests of the images; of secrets, the names.
    `loom show`, `diagnose`, `logs`, `report` and `diff` read it, `loom replay` runs it.
    """


@done_by("run.replay")
def replay(
    file: Annotated[Path, argument("FILE", "A bundle.")],
    repeat: Annotated[
        int | None, option("--repeat N", "Run it N times, and tell how often it fails, and how.", min=2, max=1000)
    ] = None,
    keep: options.Keep = None,
    jobs: options.AtOnce = None,
    pull: options.Pull = None,
    trust: options.Trust = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
    color: options.Color = None,
) -> None:
    """Run what a bundle holds again, and tell whether it fails in the same way.

    The files come from the bundle and the clone that you are in; your checkout is not touched. loom asks before it runs
    what a stranger wrote. Exit code: that of the run.
    """
