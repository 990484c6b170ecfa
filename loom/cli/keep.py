"""`loom clean`, `doctor`, `config`, `images` and `cache`: this machine, and what loom keeps on it."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from loom.cli import options
from loom.cli.command import argument, done_by, option

config = typer.Typer(help="Loom's runtime configuration.", no_args_is_help=True)
images = typer.Typer(help="Pull and lock the images of the workflow.", no_args_is_help=True)
cache = typer.Typer(help="Jobs' caches: list, remove.", no_args_is_help=True)
Names = Annotated[list[str] | None, argument("IMAGE", "Only these images, or those of these jobs (names or globs).")]
Everywhere = Annotated[bool, option("--all -a", "The caches of every repository, not only of this one.")]


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


@config.command("show")
@done_by("config")
def show(
    key: Annotated[str | None, argument("KEY", "Only the value of this setting.", "setting")] = None,
    origin: Annotated[bool, option("--origin", "Print where each value comes from.")] = False,
    form: Annotated[Literal["text", "json"], option("--format", "Output format.")] = "text",
    as_json: options.AsJson = False,
) -> None:
    """Print the effective settings."""


@images.command("pull")
@done_by("keep.images")
def pull(
    names: Names = None,
    frozen: options.Frozen = None,
    as_json: options.AsJson = False,
    workflow: options.WorkflowFile = None,
) -> None:
    """Pull the images that the lock file names or the registries serve, including bases of builds."""


@images.command("lock")
@done_by("keep.images")
def lock(
    names: Names = None,
    platform: Annotated[list[str] | None, option("--platform P", "Lock for this platform too (linux/arm64).")] = None,
    local: Annotated[bool, option("--local", "Lock what is on this engine; ask no registry.")] = False,
    as_json: options.AsJson = False,
    workflow: options.WorkflowFile = None,
) -> None:
    """Write .loom/images.lock, so that runs use the images that the registries serve now."""


@images.command("prune")
@done_by("keep.images")
def prune(
    older_than: Annotated[str, option("--older-than TIME", "Only images that were not used for this long.")] = "30d",
    as_json: options.AsJson = False,
) -> None:
    """Remove images that loom built and that no run has used recently."""


@cache.command("ls")
@done_by("keep.cache")
def ls(
    keys: Annotated[list[str] | None, argument("KEY...", "Only these keys (globs).")] = None,
    everywhere: Everywhere = False,
    as_json: options.AsJson = False,
) -> None:
    """List the entries, last used first."""


@cache.command("rm")
@done_by("keep.cache")
def rm(
    keys: Annotated[list[str], argument("KEY...", "Keys or globs; `*` is all.")],
    everywhere: Everywhere = False,
    as_json: options.AsJson = False,
) -> None:
    """Remove entries by their keys."""
