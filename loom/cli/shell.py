"""`loom shell` and `loom exec`: a shell or one command inside a job."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from loom.cli import options
from loom.cli.command import argument, done_by, option

AsRoot = Annotated[bool, option("--root", "As root, whatever user the job has.")]


@done_by("inside.shell")
def shell(
    run: options.RunOrJob = None,
    job: options.JobOfRun = None,
    step: options.StepOfJob = None,
    as_root: AsRoot = False,
    trust: options.Trust = False,
) -> None:
    """Open a shell inside a job, where it failed or where it runs, or in a new container like it where nothing was kept.

    Same container, user, directory and variables as the step had. The step's commands are in the history, and `again`
    runs the whole step as the job did.
    """


@done_by("inside.shell")
def exec_(
    context: typer.Context,
    names: Annotated[list[str] | None, argument("[RUN] JOB -- COMMAND...", "The command stands after --.")] = None,
    step: options.StepOfJob = None,
    as_root: AsRoot = False,
    as_json: Annotated[
        bool, option("--json", "Print the command's output and exit code as one JSON document.")
    ] = False,
    timeout: Annotated[
        str | None, option("--timeout T", "End the command after this time (30s, 5m), with exit code 4.")
    ] = None,
    tty: Annotated[
        bool, option("--tty -t", "Give the command this terminal, for an editor, a debugger or a REPL.")
    ] = False,
    trust: options.Trust = False,
) -> None:
    """Run one command inside a job. Its streams and its exit code are passed through.

    Exit code 125: loom could not run it; with --json, nothing is printed then but the reason on standard error.
    """


class ExecCommand(TyperCommand):
    """Takes all arguments after `--` as the command: `context.obj`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            args, ctx.obj = args[:at], args[at + 1 :]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["[OPTIONS] [RUN] JOB -- COMMAND..."]


CLASSES = {"exec": ExecCommand}
