"""`loom version`."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    app.command("version")(show)


def show() -> None:
    """Print loom's version."""
    from loom import __version__

    print(f"loom {__version__}")
