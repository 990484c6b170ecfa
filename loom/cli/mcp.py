"""`loom mcp`."""

from __future__ import annotations

from typing import Annotated

import typer

from loom.cli import options
from loom.cli.command import completion, done_by


@done_by("agents.mcp")
def mcp(
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Only look: no runs, no commands in jobs, no resume.")
    ] = False,
    job: Annotated[
        list[str] | None,
        typer.Option(
            "--job",
            metavar="PATTERN",
            help="The jobs that may run, by name or glob (repeatable; default: all).",
            autocompletion=completion("workflow-job"),
        ),
    ] = None,
    allow_host: Annotated[
        bool, typer.Option("--allow-host", help="Allow jobs on this machine, outside of containers.")
    ] = False,
    allow_privileged: Annotated[
        bool,
        typer.Option("--allow-privileged", help="Allow privileged jobs, devices, and jobs with the engine's socket."),
    ] = False,
    allow_network: Annotated[
        bool,
        typer.Option("--allow-network", help="Allow jobs a network. Else they have none, apart from their services."),
    ] = False,
    workflow: options.WorkflowFile = None,
) -> None:
    """Serve a coding agent: a Model Context Protocol server on standard input and output.

    Its tools check and run the workflow, explain failures, search logs, run commands in a failed job, continue it, and
    show its changes. Answers are short; the agent asks for more. The options set what the agent may do. Needs the extra
    `mcp` (pipx install '.[mcp]' in a checkout of loom).
    """
