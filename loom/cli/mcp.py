"""`loom mcp`."""

from __future__ import annotations

from typing import Annotated

from loom.cli import options
from loom.cli.command import done_by, option


@done_by("agents.mcp")
def mcp(
    read_only: Annotated[bool, option("--read-only", "Only look: no runs, no commands in jobs, no resume.")] = False,
    job: Annotated[
        list[str] | None,
        option("--job PATTERN", "The jobs that may run, by name or glob (repeatable; default: all).", "workflow-job"),
    ] = None,
    allow_host: Annotated[bool, option("--allow-host", "Allow jobs on this machine, outside of containers.")] = False,
    allow_privileged: Annotated[
        bool, option("--allow-privileged", "Allow privileged jobs, devices, and jobs with the engine's socket.")
    ] = False,
    allow_network: Annotated[
        bool, option("--allow-network", "Allow jobs a network. Else they have none, apart from their services.")
    ] = False,
    workflow: options.WorkflowFile = None,
) -> None:
    """Serve a coding agent: a Model Context Protocol server on standard input and output.

    Its tools check and run the workflow, explain failures, search logs, run commands in a failed job, continue it, and
    show its changes. Answers are short; the agent asks for more. The options set what the agent may do. Needs the extra
    `mcp` (pipx install '.[mcp]' in a checkout of loom).
    """
