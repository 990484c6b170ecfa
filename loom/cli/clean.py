"""`loom clean` and `loom doctor`."""

from __future__ import annotations

from typing import Annotated

from loom.cli import options
from loom.cli.command import argument, done_by, option


@done_by("keep.clean")
def clean(
    runs: Annotated[list[str] | None, argument("RUN...", options.RUN_HELP, "run")] = None,
    keep_last: Annotated[
        int | None, option("--keep-last N", "Keep the newest N (default: `keep_runs` of the configuration).", min=0)
    ] = None,
    older_than: Annotated[str | None, option("--older-than AGE", "Only what is older: `12h`, `7d`.")] = None,
    everywhere: Annotated[
        bool, option("--all -a", "The runs of every checkout, and workspaces without a record.")
    ] = False,
    dry_run: Annotated[bool, option("--dry-run -n", "Print what would be deleted; delete nothing.")] = False,
    as_json: options.AsJson = False,
    in_background: Annotated[bool, option("--in-background", "", hidden=True)] = False,
) -> None:
    """Delete old runs. Removes records, isolated workspaces, and their resources in the engine.

    Without arguments: workspaces beyond `keep_workspaces`, kept containers beyond `keep_for`, both beyond `keep_max_size`
    (after the changes in a container's files are saved in the record), records beyond `keep_runs`, and artifacts with an
    expired `expire_in`. Each run does the same in the background when it ends.

    Never deletes anything in use.
    """


@done_by("doctor")
def doctor(on: options.On = None, as_json: options.AsJson = False) -> None:
    """Check what loom needs on this machine. Covers git, engine, default image, disk space and directories; prints remedies.

    Starts a container of a local image, like a job's, and removes it. With --on: checks a cluster's rights, rules, quotas
    and registry instead of the engine.

    Exit code: 0 without problems, 3 otherwise.
    """
