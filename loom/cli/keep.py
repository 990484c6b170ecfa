"""`loom clean`, `doctor`, `config`, `images` and `cache`: this machine, and what loom keeps on it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import typer

from loom.cli import options
from loom.cli.command import argument, done_by, option

config = typer.Typer(help="Print the settings, and where each comes from.", no_args_is_help=True)
images = typer.Typer(help="Pull and lock the images of the workflow.", no_args_is_help=True)
cache = typer.Typer(help="Jobs' caches: list, remove.", no_args_is_help=True)
NAMES = argument("IMAGE", "Only these images, or those of these jobs (names or globs).")
EVERYWHERE = option("--all -a", "The caches of every repository, not only of this one.")


@done_by("keep.clean")
def clean(
    runs: list[str] | None = argument("RUN...", options.RUN_HELP, "run"),
    keep_last: int | None = option(
        "--keep-last N", "Keep the newest N (default: `keep_runs` of the configuration).", min=0
    ),
    older_than: str | None = option("--older-than AGE", "Only what is older: `12h`, `7d`."),
    everywhere: bool = option("--all -a", "The runs of every checkout, and workspaces without a record."),
    dry_run: bool = option("--dry-run -n", "Print what would be deleted; delete nothing."),
    as_json: bool = options.AS_JSON,
    in_background: bool = option("--in-background", "", hidden=True),
) -> None:
    """Delete old runs. Removes records, isolated workspaces, and their resources in the engine.

    Without arguments: workspaces beyond `keep_workspaces`, kept containers beyond `keep_for`, both beyond `keep_max_size`
    (after the changes in a container's files are saved in the record), records beyond `keep_runs`, and artifacts with an
    expired `expire_in`. Each run does the same in the background when it ends.

    Never deletes anything in use.
    """


@done_by("doctor")
def doctor(on: str | None = options.ON, as_json: bool = options.AS_JSON) -> None:
    """Check what loom needs on this machine. Covers git, engine, default image, disk space and directories; prints remedies.

    Starts a container of a local image, like a job's, and removes it. With --on: checks a cluster's rights, rules, quotas
    and registry instead of the engine.

    Exit code: 0 without problems, 3 otherwise.
    """


@config.command("show")
@done_by("config")
def show(
    key: str | None = argument("KEY", "Only the value of this setting.", "setting"),
    origin: bool = option("--origin", "Print where each value comes from."),
    form: Literal["text", "json"] = option("--format", "Output format.", default="text"),
    as_json: bool = options.AS_JSON,
) -> None:
    """Print the effective settings."""


@images.command("pull")
@done_by("keep.images")
def pull(
    names: list[str] | None = NAMES,
    frozen: bool | None = options.FROZEN,
    as_json: bool = options.AS_JSON,
    workflow: Path | None = options.WORKFLOW_FILE,
) -> None:
    """Pull the images that the lock file names or the registries serve, including bases of builds."""


@images.command("lock")
@done_by("keep.images")
def lock(
    names: list[str] | None = NAMES,
    platform: list[str] | None = option("--platform P", "Lock for this platform too (linux/arm64)."),
    local: bool = option("--local", "Lock what is on this engine; ask no registry."),
    as_json: bool = options.AS_JSON,
    workflow: Path | None = options.WORKFLOW_FILE,
) -> None:
    """Write .loom/images.lock, so that runs use the images that the registries serve now."""


@images.command("prune")
@done_by("keep.images")
def prune(
    older_than: str = option("--older-than TIME", "Only images that were not used for this long.", default="30d"),
    as_json: bool = options.AS_JSON,
) -> None:
    """Remove images that loom built and that no run has used recently."""


@cache.command("ls")
@done_by("keep.cache")
def ls(
    keys: list[str] | None = argument("KEY...", "Only these keys (globs)."),
    everywhere: bool = EVERYWHERE,
    as_json: bool = options.AS_JSON,
) -> None:
    """List the entries, last used first."""


@cache.command("rm")
@done_by("keep.cache")
def rm(
    keys: list[str] = argument("KEY...", "Keys or globs; `*` is all.", default=...),
    everywhere: bool = EVERYWHERE,
    as_json: bool = options.AS_JSON,
) -> None:
    """Remove entries by their keys."""
