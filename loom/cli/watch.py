"""`loom watch` and `loom mcp`: commands that stay."""

from __future__ import annotations

from pathlib import Path

from loom.cli import options
from loom.cli.command import done_by, option


@done_by("run.watch", takes=(options.PlanOptions, options.RunOptions))
def watch(
    everything: bool = option("--all", "Run all jobs at each change, from the start, not first those that failed."),
    poll: bool = option("--poll", "Look at every file each second: for file systems that report no changes."),
) -> None:
    """Run the workflow's jobs, and again each time that a file changes.

    What git ignores does not count. Jobs that failed run first, then those that wait for them, then the rest; a job whose
    `rules: changes` do not name what changed is left out. Keys: r run, f failed jobs only, s shell into the failure, q quit.
    """


@done_by("agents.mcp")
def mcp(
    read_only: bool = option("--read-only", "Only look: no runs, no commands in jobs, no resume."),
    job: list[str] | None = option(
        "--job PATTERN", "The jobs that may run, by name or glob (repeatable; default: all).", "workflow-job"
    ),
    allow_host: bool = option("--allow-host", "Allow jobs on this machine, outside of containers."),
    allow_privileged: bool = option(
        "--allow-privileged", "Allow privileged jobs, devices, and jobs with the engine's socket."
    ),
    allow_network: bool = option(
        "--allow-network", "Allow jobs a network. Else they have none, apart from their services."
    ),
    workflow: Path | None = options.WORKFLOW_FILE,
) -> None:
    """Serve a coding agent: a Model Context Protocol server on standard input and output.

    Its tools check and run the workflow, explain failures, search logs, run commands in a failed job, continue it, and
    show its changes. Answers are short; the agent asks for more. The options set what the agent may do. Needs the extra
    `mcp` (pipx install '.[mcp]' in a checkout of loom).
    """
