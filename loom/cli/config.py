"""`loom config`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from loom.cli import options
from loom.cli.command import argument, done_by, option

config = typer.Typer(help="Loom's runtime configuration.", no_args_is_help=True)


@config.command("show")
@done_by("config")
def show(
    key: Annotated[str | None, argument("KEY", "Only the value of this setting.", "setting")] = None,
    origin: Annotated[bool, option("--origin", "Print where each value comes from.")] = False,
    form: Annotated[Literal["text", "json"], option("--format", "Output format.")] = "text",
    as_json: options.AsJson = False,
) -> None:
    """Print the effective settings."""
