"""`loom images`."""

from __future__ import annotations

from typing import Annotated

import typer

from loom.cli import options
from loom.cli.command import argument, done_by, option

images = typer.Typer(help="Pull and lock the images of the workflow.", no_args_is_help=True)

Names = Annotated[list[str] | None, argument("IMAGE", "Only these images, or those of these jobs (names or globs).")]


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
