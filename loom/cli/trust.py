"""`loom trust`."""

from __future__ import annotations

from typing import Annotated

import typer

from loom.cli import options


def register(app: typer.Typer) -> None:
    app.command("trust")(trust)


def trust(
    workflow: options.WorkflowFile = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Record it without a question.")] = False,
    revoke: Annotated[bool, typer.Option("--revoke", help="Forget what was allowed here.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Show what this repository asks for beyond a plain container, and allow it.

    Your decision is kept outside of the repository. It covers exactly what is listed; what changes later is asked again.
    """
    from loom.commands import trust as trusting

    raise SystemExit(trusting.trust(workflow, yes=yes, revoke=revoke, as_json=as_json))
