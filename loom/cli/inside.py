"""`loom snapshot`, `verify`, `workspace`, `pull`, `shell` and `exec`: the jobs' files before and after, and jobs from inside."""

from __future__ import annotations

from typing import Any

import typer

from loom.cli import options
from loom.cli.command import argument, done_by, option
from loom.cli.help import GroupedCommand

AS_ROOT = option("--root", "As root, whatever user the job has.")


@done_by("inside.snapshot")
def snapshot(
    paths: list[str] | None = argument("PATH...", "With --explain: the paths to explain.", show_default=False),
    explain: bool = option("--explain", "Show whether CI would see each PATH, and which rule decides."),
    as_json: bool = options.AS_JSON,
) -> None:
    """Make the isolated workspace that jobs would get, without a run.

    Prints its path, its content, and excluded files with reasons. `loom snapshot --explain PATH...` keeps no snapshot;
    it shows whether CI would see the file.
    """


@done_by("inside.snapshot")
def verify(
    what: str = argument("RUN|WORKSPACE", "A run, or a workspace's path.", "run", default="last"),
    job: str | None = options.JOB_OF_RUN,
    as_json: bool = options.AS_JSON,
) -> None:
    """Compare a workspace with its snapshot byte by byte. Lists each changed file; with JOB, in that job's files.

    Exit code: 0 without changes, 1 otherwise.
    """


@done_by("inside.pull")
def workspace(
    run: str | None = options.RUN_OR_JOB, job: str | None = options.JOB_OF_RUN, as_json: bool = options.AS_JSON
) -> None:
    """Print the directory of a run's snapshot. With JOB, the directory of that job's own files.

    Files that are layers of an overlay or in a volume of the engine are first laid out in that directory. While the job's
    container is kept, each call lays them out as they are now.
    """


@done_by("inside.pull")
def pull(
    run: str | None = options.RUN_OR_JOB,
    job: str | None = options.JOB_OF_RUN,
    apply: bool = option("--apply", "Change the checkout instead of printing the patch."),
    as_json: bool = options.AS_JSON,
) -> None:
    """Bring a job's changes to its files into the checkout. Prints a patch; --apply applies it.

    Files that git ignores are left out, and files that the jobs declare as artifacts or caches. Files that you edited in
    the checkout since the run are never overwritten: --apply names them, and applies all other changes.
    """


@done_by("inside.shell")
def shell(
    run: str | None = options.RUN_OR_JOB,
    job: str | None = options.JOB_OF_RUN,
    step: str | None = options.STEP_OF_JOB,
    as_root: bool = AS_ROOT,
    trust: bool = options.TRUST,
) -> None:
    """Open a shell inside a job, where it failed or where it runs, or in a new container like it where nothing was kept.

    Same container, user, directory and variables as the step had. The step's commands are in the history, and `again`
    runs the whole step as the job did.
    """


@done_by("inside.shell")
def exec_(
    context: typer.Context,
    names: list[str] | None = argument("[RUN] JOB -- COMMAND...", "The command stands after --."),
    step: str | None = options.STEP_OF_JOB,
    as_root: bool = AS_ROOT,
    as_json: bool = option("--json", "Print the command's output and exit code as one JSON document."),
    timeout: str | None = option("--timeout T", "End the command after this time (30s, 5m), with exit code 4."),
    tty: bool = option("--tty -t", "Give the command this terminal, for an editor, a debugger or a REPL."),
    trust: bool = options.TRUST,
) -> None:
    """Run one command inside a job. Its streams and its exit code are passed through.

    Exit code 125: loom could not run it; with --json, nothing is printed then but the reason on standard error.
    """


class ExecCommand(GroupedCommand):
    """Takes all arguments after `--` as the command: `context.obj`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            args, ctx.obj = args[:at], args[at + 1 :]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["[OPTIONS] [RUN] JOB -- COMMAND..."]


CLASSES = {"exec": ExecCommand}
