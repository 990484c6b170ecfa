"""The work of `loom run`, which `loom resume` and `loom rerun` share: from options to a run and its exit code."""

from __future__ import annotations

import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from loom.cancel import Cancel, signals
from loom.commands import terminal
from loom.commands.inside import breakpoints
from loom.commands.plan.plan_run import plan_run, repeatable
from loom.commands.plan.wiring import run_tools
from loom.commands.project import Project, Worktree, open_project
from loom.commands.project.background import clean_later
from loom.commands.project.recreate_tree import working_in
from loom.commands.screen import screen_parts
from loom.config import choice
from loom.errors import RequestError
from loom.plan.model import Plan
from loom.record.request import Request
from loom.record.run import Run
from loom.render import diagnosis as forms
from loom.render.look import Look
from loom.render.screen import Screen, closing_lines
from loom.runner import Gate, JobTools, api
from loom.runner.tools import RunResult
from loom.status import ExitCode
from loom.util import clock
from loom.util.bounded import by_reason, listed
from loom.util.controls import escape_commands

if TYPE_CHECKING:
    from loom.render.ci import GitHub, GitLab, JsonLines
    from loom.render.live import Live


def run(*, local: bool, **given: Any) -> int:
    """`loom run`. `local` has no effect: every run is local."""
    return run_with(Request.of(given))


def run_with(request: Request, *, settings: Mapping[str, Any] | None = None, **more: Any) -> int:
    """Run the workflow; return the exit code. `settings`: see `checkout_for`; `more`: fields of `Run`."""
    if not request.staged:
        return _run_here(request, settings, more)
    project = open_project(request.settings, trusting=request.trust)
    own = {"repo_root": project.root, "request": repeatable(request, project)}
    with signals(cancel := Cancel()), working_in(project, None, cancel):
        return _run_here(request, settings, {**more, **own})


def _run_here(request: Request, settings: Mapping[str, Any] | None, more: Mapping[str, Any]) -> int:
    project, made = plan_run(request, settings=settings)
    if request.dry_run:
        from loom.render.plan import plan_text  # no other run needs YAML

        sys.stdout.write(plan_text(made.plan, project.config.mount_mode, form=request.form))
        return ExitCode.OK
    if not made.plan.jobs:
        left_out = made.plan.left_out
        grouped = by_reason((left.id, left.reason) for left in left_out)
        reasons = listed((f"{', '.join(listed(ids, 5))}: {reason}" for reason, ids in grouped.items()), 10)
        free = [
            f"a job that you name runs whatever its rules: loom run {left.id}" for left in left_out if not left.held
        ]
        hint = "\n".join((*reasons, *free[:1])) or None
        raise RequestError("no job of the workflow would run", hint=hint, code="NOTHING_TO_RUN")
    made = replace(made, **more)
    if not (request.suggest_inputs or request.reuse):
        return run_as_asked(project, made)
    from loom.commands.run import shown, suggestion  # only such runs look at earlier ones, or at what was read

    if request.suggest_inputs:
        code = execute(project, made := suggestion.with_all_inputs(project, made))
        print(*suggestion.suggestions(project, made), sep="\n")
        return code
    with signals(cancel := Cancel()):
        made = shown.with_results_of_before(project, made, cancel)
    return run_as_asked(project, made)


def run_as_asked(project: Worktree, run: Run) -> int:
    """Run it as often as its request says; return the exit code."""
    request = run.request
    if request.repeat is None:
        return execute(project, run)
    from loom.commands.run.repeat import repeat  # only such a run compares runs

    if request.detach or request.reuse or request.stop_at or request.form not in ("screen", "json"):
        raise RequestError("--repeat runs without --detach, --reuse and --stop-at, and prints text or --json")
    look, write = screen_parts(project.config.color, quiet=request.quiet, verbose=request.verbose)
    audience, _ = audience_for(replace(request, form="screen"), None, look, write)
    with closing(audience):
        shown = [] if request.form == "json" else [audience]
        return repeat(project, run, request.repeat, sinks=shown, look=look, write=write)


def execute(project: Worktree, run: Run) -> int:
    """Run a run and show it on the terminal; return the exit code."""
    config, plan, request = project.config, run.plan, run.request
    bundles = choice(project.environ, "LOOM_BUNDLE")
    cancel = Cancel()
    look, write = screen_parts(config.color, quiet=request.quiet, verbose=request.verbose, stream=config.stream)
    audience, gate = audience_for(request, plan, look, write)
    tools = run_tools(project, run, cancel, [audience], gate)
    if run.detached:
        _check_detachable(plan, tools)
        leave = _leaving(run.run_id, audience.close, write)
        cancel.on_request(lambda: leave(ExitCode.HANGUP, "") if cancel.exit_code is ExitCode.HANGUP else None)

        def over(lost: str) -> None:
            if lost or not run.attached:
                leave(ExitCode.INFRASTRUCTURE if lost else ExitCode.OK, lost)

        tools = replace(tools, leave=over)
    if any(job.trigger is not None for job in plan.jobs):
        from loom.commands.run.children import ChildRuns  # only such a run makes plans while it runs

        tools = replace(tools, run_child=ChildRuns(project, run, gate))
    with signals(cancel), closing(audience):
        ran = api.execute(run, tools)
    _say_the_end(ran, audience, project, request.form, look, write)
    clean_later(project)
    if bundles and not ran.receipt.status.ok:
        from loom.commands.record.bundle import leave_bundle  # only here

        leave_bundle(project, ran.receipt.run_id)
    terminal.written(f"the run finished ({ran.receipt.status.value}); its record is complete: {ran.receipt_path}")
    return ran.receipt.exit_code


def audience_for(
    request: Request, plan: Plan | None, look: Look, write: Callable[[str], None]
) -> tuple[Live | Screen | JsonLines | GitHub | GitLab, Gate | None]:
    """Return the sink that shows the run, and the gate that stops it around steps."""
    gate = breakpoints.PauseGate() if request.pauses else None
    if gate is not None and (request.attended or request.settings["keep"] == "never"):
        raise RequestError(
            "--stop-at pause keeps a failed job's container and ends the run",
            hint="leave out --keep never, and every other --stop-at",
        )
    if request.detach and request.stop_at:
        raise RequestError(
            "--detach: nobody may be there when a step fails",
            hint="leave out --stop-at; --keep on-failure keeps failed jobs",
        )
    if request.attended:
        screen = breakpoints.PausableLines(write)
        asking = breakpoints.TerminalGate(screen, request.stop_at, plan)
        breakpoints.needs_terminal(f"--stop-at {request.stop_at[0]}", "--stop-at pause works without one")
        return Screen(look, screen), asking
    if request.form != "screen":
        return audience_in(request.form, look, write), gate
    redraws = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    if redraws and not (request.quiet or look.stream):
        from loom.render.live import Live

        return Live(look, terminal.exact(), time.monotonic), gate
    return Screen(look, write), gate


def _say_the_end(
    ran: RunResult, audience: object, project: Project, form: str, look: Look, write: Callable[..., None]
) -> None:
    if hasattr(audience, "receipt"):
        audience.receipt(ran.receipt, str(ran.receipt_path))
        return
    with suppress(OSError):  # reported next, unless only the reader left
        reading = project.find(ran.receipt.run_id) if form == "github" else None
        jobs = reading.fold.jobs.values() if reading is not None else ()
        if reading and (failed := [job.id for job in jobs if job.status is not None and not job.status.ok]):
            from loom.analysis.evidence import diagnosis_of  # only a failed run needs it

            first, *others = (diagnosis_of(reading, job) for job in failed)
            write(*forms.lines("github", first, look, now_ns=0, others=others))
        for line in closing_lines(ran.receipt.status.value, ran.receipt_path, ran.diagnosis, ran.kept, look):
            write(escape_commands(line))


def audience_in(form: str, look: Look, write: Callable[[str], None]) -> JsonLines | GitHub | GitLab:
    """Return the sink for output that programs read."""
    from loom.render.ci import GitHub, GitLab, JsonLines

    if form == "json":

        def write_bytes(data: bytes) -> None:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()

        return JsonLines(write_bytes)
    if form == "github":
        return GitHub(write, unicode=look.unicode, token=secrets.token_hex(16))
    out = terminal.exact()

    def write_exactly(line: str) -> None:
        out.write(line + "\n")
        out.flush()

    return GitLab(write_exactly, unicode=look.unicode, clock_ns=clock.steady())


def _check_detachable(plan: Plan, tools: JobTools) -> None:
    """Raise RequestError for a plan with jobs that can't go on without this process."""
    for job in plan.jobs:
        if job.trigger is not None:
            why, way = f"job {job.id} starts a child pipeline, which this machine runs", "leave the job out"
        elif job.has_expressions:
            why, way = f"loom decides about the steps of job {job.id} when they start", "leave the job out"
        elif not tools.providers[job.provider].capabilities.detachable:
            why = f"job {job.id} runs on this machine, and would end with loom"
            way = "run all jobs in a cluster (--on kubernetes)"
        else:
            continue
        raise RequestError(f"--detach: {why}", hint=f"{way}, or leave out --detach", code="DETACH_UNSUPPORTED")


def _leaving(run_id: str, close: Callable[[], None], write: Callable[..., None]) -> Callable[[ExitCode, str], None]:
    """Return a function that ends this process at once and leaves the record as it is. `close` ends the display of the run."""
    once = threading.Lock()

    def leave(code: ExitCode, why: str) -> None:
        once.acquire()  # no limit: nobody releases it; another thread that comes here waits for the end
        with suppress(OSError, ValueError):
            close()
            write(
                *filter(None, [why]),
                f"detached: jobs of run {run_id} go on in the cluster; those that have not started wait",
                f"follow them, and run the rest: loom attach {run_id}",
            )
            sys.stdout.flush()
        os._exit(code)

    return leave
