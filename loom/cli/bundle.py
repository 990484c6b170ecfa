"""`loom bundle` and `loom replay`: a run in one file, for somebody else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from loom.cli import options
from loom.cli.command import argument, done_by, option


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
    pull: Annotated[str | None, option("--pull WHEN", "always, missing or never.", "setting:pull")] = None,
    trust: options.Trust = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
    color: options.Color = None,
) -> None:
    """Run what a bundle holds again, and tell whether it fails in the same way.

    The files come from the bundle and the clone that you are in; your checkout is not touched. loom asks before it runs
    what a stranger wrote. Exit code: that of the run.
    """
