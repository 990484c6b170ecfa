"""`loom cache`."""

from __future__ import annotations

from typing import Annotated

import typer

from loom.cli import options
from loom.cli.command import argument, done_by, option

cache = typer.Typer(help="Jobs' caches: list, remove.", no_args_is_help=True)

Everywhere = Annotated[bool, option("--all -a", "The caches of every repository, not only of this one.")]


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
