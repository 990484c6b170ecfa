"""`loom cache`."""

from __future__ import annotations

from typing import Annotated

import typer

from loom.cli import options
from loom.cli.command import argument, done_by, option

cache = typer.Typer(help="Jobs' caches: list, remove, prune.", no_args_is_help=True)

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


@cache.command("prune")
@done_by("keep.cache")
def prune(
    max_size: Annotated[
        str | None, option("--max-size SIZE", "Leave at most this much, such as 5g (default: `cache_max_size`).")
    ] = None,
    unused_for: Annotated[
        str | None, option("--unused-for DURATION", "Remove entries that were not used for this long, such as 30d.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Remove the least recently used entries of all repositories, and remains of interrupted runs."""
