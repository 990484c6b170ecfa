"""The work of `loom run`, which `loom resume` and `loom rerun` share: from options to a run and its exit code.

Reads the terminal and the clock, and turns signals into cancellation; the layers below get them as values.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing, suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from loom import snapshot
from loom.analysis.reproduction import options_again
from loom.cancel import Cancel, signals
from loom.commands import project, terminal
from loom.commands.inside import breakpoints
from loom.commands.keep import trust as trusting
from loom.commands.keep.background import clean_later
from loom.commands.project import Here
from loom.commands.run import checkout, detaching, kept_plans, wiring
from loom.commands.run.kept_plans import Planner
from loom.commands.screen import screen_parts
from loom.config import KEYS, Config
from loom.errors import RequestError, WorkflowError
from loom.plan.model import MountMode, Plan
from loom.record.documents import Invocation
from loom.render import diagnosis as forms
from loom.render.closing import closing_lines
from loom.render.screen import Look, Screen
from loom.runner import Gate, JobTools, api
from loom.runner.request import Ran, Reuse, RunRequest
from loom.snapshot import Source
from loom.status import ExitCode
from loom.util import clock, profile
from loom.util.bounded import listed
from loom.util.controls import without_commands
from loom.util.paths import name_from

if TYPE_CHECKING:
    from loom.record.journal import Sink
    from loom.record.reader import Reading
    from loom.render.ci import GitHub, GitLab
    from loom.render.json_lines import JsonLines
    from loom.render.live import Live


MAX_NOTICES = 5


class Options(Struct, frozen=True, kw_only=True):
    """The request, by the names of the command's parameters. Parameters that are also settings are in `flags`."""

    names: Sequence[str] = ()
    workflow: Path | None = None
    stage: Sequence[str] = ()
    from_job: str | None = None
    only_failed: bool = False
    needs: bool | None = None
    var: Sequence[str] = ()
    inputs: Sequence[str] = ()
    """`NAME=value` of the inputs that the workflow's main file declares."""
    matrix: Sequence[str] = ()
    changes_base: str | None = None
    event: str = "push"
    dry_run: bool = False
    quiet: bool = False
    verbose: bool = False
    strict: bool = False
    no_cache: bool = False
    form: str = "screen"
    """`screen`, `json`, `github` or `gitlab`."""
    shell_on_failure: bool = False
    pause_on_failure: bool = False
    detach: bool = False
    """Whether jobs are handed over to their places, where they go on without this process."""
    no_delay: bool = False
    """Whether delayed jobs start at once."""
    break_before: str | None = None
    profile: Path | None = None
    """Where to write a trace of where the time goes."""
    trust: bool = False
    """Whether all that the workflow asks for is allowed, this once."""
    parent_run_id: str | None = None
    """The run that this one does again, if it takes nothing over from it."""
    invocation: Invocation | None = None
    """What the run that this one does again was asked for."""
    flags: Mapping[str, object] = field(default_factory=dict)
    """Settings that the command line gives, by their keys."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """Divide what was given into settings and the rest; None means "not given"."""
        there = {name: value for name, value in given.items() if value is not None}
        flags = {name: there.pop(name) for name in KEYS if name in there}
        return cls(flags=flags, **there)

    @classmethod
    def of_saved(cls, invocation: Invocation) -> Options:
        """Return those with which a run does again what `invocation` asked for; the jobs are the caller's choice."""
        given = options_again(invocation)
        return cls.of({**given, "workflow": Path(given["workflow"])} if "workflow" in given else given)

    @property
    def settings(self) -> dict[str, object]:
        """The flags. `--strict`: no network but what the workflow declares, and locked images only."""
        strict = {"mount_mode": "auto", **self.flags, "network": "none", "frozen": True}
        flags = strict if self.strict else dict(self.flags)
        return {"keep": "on-failure", **flags} if self.pause_on_failure else flags

    def saved(self, here: Here) -> Invocation:
        """Return what the record saves, so that the run can be repeated."""
        if self.invocation is not None:
            return self.invocation
        kept = {name: msgspec.to_builtins(getattr(self, name), enc_hook=str) for name in _defaults()}
        given = {name: value for name, value in kept.items() if value != _defaults()[name]}
        if self.workflow is not None and here.start != here.root:
            given["workflow"] = str(here.workflow(self.workflow))
        return Invocation(
            options={**given, **msgspec.to_builtins(self.flags, enc_hook=str)},
            variables={
                origin.place: here.config.text_of(name)
                for name, origin in here.config.origins.items()
                if origin.layer == "environment" and origin.place.startswith("LOOM_")
            },
        )

    @property
    def attended(self) -> bool:
        """Whether the run asks a person before or after steps."""
        return self.shell_on_failure or self.break_before is not None


@cache
def _defaults() -> Mapping[str, Any]:
    """Each option of the command line, with its default."""
    options: Mapping[str, Any] = msgspec.to_builtins(Options())
    return {name: value for name, value in options.items() if name not in ("flags", "invocation", "parent_run_id")}


class Prepared(Struct, frozen=True, kw_only=True):
    """A run that is ready to start."""

    run_id: str
    here: Here
    source: Source
    plan: Plan
    variables: Mapping[str, str]
    """The variables that loom sets for every job."""
    concerned: frozenset[str] | None = None
    """The jobs that the files in question leave in, where a rule looks at `changes`; None: all."""
    notices: tuple[str, ...] = ()
    """Warnings of `loom check` about keys that have no effect, or another one, on these jobs."""


def prepare(
    options: Options, *, run_id: str = "", ask: bool = True, touched: AbstractSet[str] | None = None
) -> Prepared:
    """Make the plan from the options. After RequestError or WorkflowError there is no record.

    `ask`: a person is at the terminal, to be told of settings that do not count, and asked for trust. `touched`: the files
    in question for `Prepared.concerned`.
    """
    run_id = run_id or str(time.time_ns())
    with profile.span("part", "find the repository"):
        source = snapshot.discover(
            Path.cwd(), environ=os.environ, filters=trusting.filters_allowed(os.environ, flag=options.trust)
        )
    with profile.span("part", "configuration"):
        here = here_for(options, source.root)
    path = here.workflow(options.workflow)
    message = checkout.message_of_head(source.root, here.environ, source.commit, api.head_of(source), options.event)
    variables = api.run_variables(run_id, source, name_from(source.root, path), event=options.event, message=message)
    planner = planner_of(options, here, variables, keeping=not options.dry_run)
    plan, notices = planner.made()
    plan = undelayed(plan) if options.no_delay else plan
    if not options.dry_run:
        requests = trusting.requests_of(plan.jobs, here, lambda: planner.workflow)
        if trusting.settle(requests, here, flag=options.trust, can_ask=ask and options.form == "screen"):
            return prepare(options, touched=touched)  # now with the settings that were allowed
        if ask:
            project.say_not_counted(here.config)
    return Prepared(
        run_id=run_id,
        here=here,
        source=source,
        plan=plan,
        variables=variables,
        concerned=_concerned(planner, plan, touched) if touched is not None and planner.asks_for_changes else None,
        notices=(*_other_file(plan, options), *notices),
    )


def _other_file(plan: Plan, options: Options) -> tuple[str, ...]:
    """Say which file it is where nobody named it and it is not loom's own."""
    if options.workflow is not None or plan.workflow_path == str(project.WORKFLOWS[0]):
        return ()
    return (f"the workflow is {plan.workflow_path}",)


def planner_of(options: Options, here: Here, variables: Mapping[str, str], *, keeping: bool = False) -> Planner:
    """Return what makes the plan that the options select. `variables`: those that loom sets for every job.

    `keeping`: see `Planner`.
    """
    path = here.workflow(options.workflow)
    context = checkout.resolve_context(
        here, path, predefined=variables, base=options.changes_base, given=options.var, inputs=options.inputs
    )
    selection = checkout.selection(
        jobs=options.names,
        stages=options.stage,
        from_job=options.from_job,
        only_failed=failed_before(here) if options.only_failed else None,
        needs=options.needs,
        variables=options.var,
        matrix=options.matrix,
        container=here.config.container,
        on=here.config.on,
    )
    return Planner(path, here, selection, context, keeping=keeping)


def undelayed(plan: Plan) -> Plan:
    """Return the plan with jobs that start at once when they may."""
    return replace(plan, jobs=tuple(replace(job, delay_s=None) for job in plan.jobs))


def _concerned(planner: Planner, plan: Plan, touched: AbstractSet[str]) -> frozenset[str] | None:
    """Return the jobs of the plan that would be in it if only these files had changed."""

    def changed(compare_to: str | None) -> list[str] | None:
        since = planner.context.changed(compare_to)
        # A new directory may be all that is known of what came with it.
        return None if since is None else [p for p in since if not touched.isdisjoint((p, *map(str, Path(p).parents)))]

    try:
        left = planner.with_changed(changed)
    except WorkflowError:  # a job needs one that would be left out
        return None
    return frozenset(job.id for job in left.jobs) & {job.id for job in plan.jobs}


def here_for(options: Options, root: Path) -> Here:
    """Return the project of a run. `keep: auto` becomes `on-failure` on a terminal, else `never`."""
    here = project.here(options.settings, root=root, trusting=options.trust)
    if here.config.keep != "auto":
        return here
    person = sys.stdin.isatty() and sys.stdout.isatty()
    return replace(here, config=dataclasses.replace(here.config, keep="on-failure" if person else "never"))


def _not_isolated(plan: Plan, config: Config) -> tuple[str, ...]:
    """Return the notice that jobs run on this machine, and how to change this."""
    jobs = [job.id for job in plan.jobs if job.image is None]
    if not jobs:
        return ()
    by = config.origins.get("container")
    why = f" ({by.place})" if by is not None and by.place and not config.container else ""
    return (f"on this machine, not isolated{why}: {_some(jobs)}; in a container: loom run --container",)


def _not_shared(plan: Plan, tools: JobTools, config: Config) -> tuple[str, ...]:
    """Return the notice that `bind_mount` has no effect on jobs in places without this machine's directories."""
    if config.mount_mode != "bind_mount":
        return ()
    mounts = {name: one.capabilities.mounts for name, one in tools.providers.items()}
    jobs = [job.id for job in plan.jobs if MountMode.BIND not in mounts[job.provider]]
    text = f"bind_mount has no effect where this machine's directories are not; own files for each: {_some(jobs)}"
    return (text,) if jobs else ()


def _some(jobs: Sequence[str]) -> str:
    more = len(jobs) - MAX_NOTICES
    return ", ".join(jobs[:MAX_NOTICES]) + (f" and {more} more" if more > 0 else "")


def failed_before(here: Here) -> list[str]:
    """The jobs that did not succeed in this checkout's last run. RequestError without a last run, or when all succeeded."""
    last = here.find("last")
    failed = [job.id for job in last.fold.jobs.values() if job.status is None or not job.status.ok]
    if not failed:
        raise RequestError(f"no job failed in the last run ({last.run_id})", hint="Leave --only-failed out to run all.")
    return failed


def run(*, local: bool, **given: Any) -> int:
    """`loom run`. `local` has no effect: every run is local."""
    return run_with(Options.of(given))


def run_with(options: Options) -> int:
    """Run the workflow; return the exit code."""
    if options.profile is not None:
        _profile_into(options.profile)
    with profile.span("part", "prepare"):
        prepared = prepare(options)
    if options.dry_run:
        from loom.render.plan import plan_yaml  # no other run needs YAML

        sys.stdout.write(plan_yaml(prepared.plan))
        return ExitCode.OK
    if not prepared.plan.jobs:
        reasons = "\n".join(listed((f"{left.id}: {left.reason}" for left in prepared.plan.left_out), 10))
        raise RequestError("no job of the workflow would run", hint=reasons or None, code="NOTHING_TO_RUN")
    return execute(prepared, options)


def _profile_into(target: Path) -> None:
    if not target.parent.is_dir():
        raise RequestError(
            f"--profile {target}: there is no directory {target.parent}", hint="make it, or name another"
        )
    profile.write_to(target)


def execute(prepared: Prepared, options: Options, *, reuse: Reuse | None = None, follow: bool = False) -> int:
    """Run a prepared plan and show it on the terminal. `reuse`: see `RunRequest`.

    `follow`: stay until the end also with `options.detach`.
    """
    here, source, plan = prepared.here, prepared.source, prepared.plan
    config = here.config
    cancel = Cancel()
    look, write = screen_parts(config.color, quiet=options.quiet, verbose=options.verbose, stream=config.stream)
    audience, gate = audience_for(options, plan, look, write, stream=config.stream)
    with profile.span("part", "tools"):
        tools = wiring.tools_for(
            plan, config, source.root, here.environ, run_id=prepared.run_id, judged=here.judged, isolated=options.strict
        )
    tools = replace(tools, gate=gate)
    if options.detach:
        detaching.check(plan, tools)
        leave = detaching.Leaving(prepared.run_id, audience.close, write, follow=follow)
        cancel.on_request(lambda: leave.hung_up(cancel.exit_code))
        tools = replace(tools, leave=leave)
    if any(job.trigger is not None for job in plan.jobs):
        tools = replace(tools, run_child=kept_plans.fresh().ChildRuns(options, prepared, gate))
    with signals(cancel), closing(audience):
        ran = api.execute(request_of(prepared, options, tools=tools, cancel=cancel, sinks=[audience], reuse=reuse))
    _say_the_end(ran, audience, here, options.form, look, write)
    clean_later(here.store, config, here.environ, source.root)
    terminal.written(f"the run finished ({ran.receipt.status.value}); its record is complete: {ran.receipt_path}")
    return ran.receipt.exit_code


def request_of(
    prepared: Prepared,
    options: Options,
    *,
    tools: JobTools,
    cancel: Cancel,
    sinks: Sequence[Sink],
    reuse: Reuse | None = None,
) -> RunRequest:
    """Return the request to run what was prepared. `reuse`: see `RunRequest`."""
    here, source, plan = prepared.here, prepared.source, prepared.plan
    config = here.config
    return RunRequest(
        run_id=prepared.run_id,
        command=sys.argv,
        invocation=options.saved(here),
        plan=plan,
        source=source,
        config=config,
        tools=tools,
        preflight=partial(wiring.preflight, plan, tools, config),
        store=here.store,
        clock_ns=clock.steady(),
        cancel=cancel,
        sinks=sinks,
        cache=None if options.no_cache else partial(wiring.cache_for, config, source),
        isolated=options.strict,
        reuse=reuse,
        parent_run_id=options.parent_run_id,
        variables=prepared.variables,
        detached=options.detach,
        notices=(*_not_isolated(plan, config), *_not_shared(plan, tools, config), *prepared.notices),
    )


def audience_for(
    options: Options, plan: Plan | None, look: Look, write: Callable[[str], None], *, stream: bool
) -> tuple[Live | Screen | JsonLines | GitHub | GitLab, Gate | None]:
    """Return the sink that shows the run, and the gate that stops it around steps."""
    gate = breakpoints.PauseGate() if options.pause_on_failure else None
    if gate is not None and (options.attended or options.settings["keep"] == "never"):
        raise RequestError(
            "--pause-on-failure keeps a failed job's place and ends the run",
            hint="leave out --shell-on-failure, --break-before and --keep never",
        )
    if options.detach and (options.attended or options.pause_on_failure):
        raise RequestError(
            "--detach: nobody may be there when a step fails",
            hint="leave out --shell-on-failure, --break-before and --pause-on-failure; --keep on-failure keeps failed jobs",
        )
    if options.attended:
        breakpoints.needs_terminal("--shell-on-failure" if options.shell_on_failure else "--break-before")
    manual = plan is not None and any(job.when == "manual" for job in plan.jobs)
    asks = manual and not options.detach and gate is None and options.form == "screen" and breakpoints.is_terminal()
    if options.attended or asks:
        screen = breakpoints.Held(write)
        before = breakpoints.place_named(plan, options.break_before) if plan and options.break_before else None
        return Screen(look, screen), breakpoints.TerminalGate(
            screen, on_failure=options.shell_on_failure, before=before
        )
    if options.form != "screen":
        return audience_in(options.form, look, write), gate
    if live_is_wanted(options, stream=stream):
        from loom.render.live import Live

        return Live(look, terminal.exact(), time.monotonic), gate
    return Screen(look, write), gate


def _say_the_end(ran: Ran, audience: object, here: Here, form: str, look: Look, write: Callable[[str], None]) -> None:
    if hasattr(audience, "receipt"):
        audience.receipt(ran.receipt, str(ran.receipt_path))
        return
    with suppress(OSError):  # reported next, unless only the reader left
        if form == "github":
            for line in _annotations(here.find(ran.receipt.run_id), look):
                write(line)
        for line in closing_lines(ran.receipt.status.value, ran.receipt_path, ran.diagnosis, ran.kept, look):
            write(without_commands(line))


def _annotations(reading: Reading, look: Look) -> Iterator[str]:
    """Annotate each job that did not succeed."""
    from loom.analysis.evidence import diagnosis_of  # only a failed run needs it

    for job in [job.id for job in reading.fold.jobs.values() if job.status is not None and not job.status.ok]:
        yield from forms.lines("github", diagnosis_of(reading, job), look, now_ns=0)


def audience_in(form: str, look: Look, write: Callable[[str], None]) -> JsonLines | GitHub | GitLab:
    """Return the sink for output that programs read."""
    from loom.render.ci import GitHub, GitLab
    from loom.render.json_lines import JsonLines

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


def live_is_wanted(options: Options, *, stream: bool) -> bool:
    """Whether to show the moving area: on a terminal that can redraw, unless output or shells need the screen."""
    can = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return can and not (options.quiet or stream or options.attended)
