"""The options of a run, and the plan that is made of them."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from loom.analysis.reproduction import options_again
from loom.commands import project, terminal
from loom.commands.plan import contexts
from loom.commands.plan.kept_plans import Planner
from loom.commands.project import Here, checkout, trusting
from loom.config import KEYS
from loom.errors import RequestError, WorkflowError
from loom.plan.model import JobSelection, Plan
from loom.record.documents import Invocation
from loom.snapshot import Source, readable, with_merge
from loom.util.bounded import listed
from loom.util.paths import name_from

if TYPE_CHECKING:
    from loom.runner.request import Brought

FAILURE, PAUSE = "failure", "pause"
"""Words of `--stop-at`."""
MOST_NAMED = 10
"""Files in conflict that a message names."""


class Options(Struct, frozen=True, kw_only=True):
    """The request, by the names of the command's parameters. Parameters that are also settings are in `flags`."""

    names: Sequence[str] = ()
    workflow: Path | None = None
    stage: Sequence[str] = ()
    from_job: str | None = None
    needs: bool | None = None
    var: Sequence[str] = ()
    inputs: Sequence[str] = ()
    """`NAME=value` of the inputs that the workflow's main file declares."""
    matrix: Sequence[str] = ()
    changes_base: str | None = None
    event: str = "push"
    event_file: Path | None = None
    allow_unmerged: bool = False
    """Whether files in conflict are no reason to refuse."""
    dry_run: bool = False
    quiet: bool = False
    verbose: bool = False
    strict: bool = False
    no_cache: bool = False
    form: str = "screen"
    """`screen`, `json`, `github` or `gitlab`."""
    stop_at: Sequence[str] = ()
    """`failure`, `pause` or `JOB[:STEP]`."""
    detach: bool = False
    """Whether jobs are handed over to their sessions, where they go on without this process."""
    no_delay: bool = False
    """Whether delayed jobs start at once."""
    repeat: int | None = None
    """The number of runs on one snapshot."""
    trust: bool = False
    """Whether all that the workflow asks for is allowed, this once."""
    parent_run_id: str | None = None
    """The run that this one does again, if it takes nothing over from it."""
    invocation: Invocation | None = None
    """The options of the run that this one repeats."""
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
        """Return the options that repeat the run of `invocation`."""
        given = options_again(invocation)
        return cls.of({**given, **{name: Path(given[name]) for name in ("workflow", "event_file") if name in given}})

    @property
    def settings(self) -> dict[str, object]:
        """The flags. `--strict`: no network but what the workflow declares, and locked images only."""
        strict = {"mount_mode": "auto", **self.flags, "network": "none", "frozen": True}
        flags = strict if self.strict else dict(self.flags)
        return {"keep": "on-failure", **flags} if self.pauses else flags

    def saved(self, here: Here) -> Invocation:
        """Return the options as the record saves them, so that the run can be repeated."""
        if self.invocation is not None:
            return self.invocation
        kept, default = (msgspec.to_builtins(one, enc_hook=str) for one in (self, Options()))
        others = ("flags", "invocation", "parent_run_id")
        given = {name: value for name, value in kept.items() if name not in others and value != default[name]}
        if self.event_file is not None:
            given["event_file"] = str(here.start / self.event_file)
        if self.workflow is not None and here.start != here.root:
            given["workflow"] = str(here.workflow(self.workflow))
        return Invocation(
            options={**given, **kept["flags"]},
            variables={
                origin.source: here.config.text_of(name)
                for name, origin in here.config.origins.items()
                if origin.layer == "environment" and origin.source.startswith("LOOM_")
            },
        )

    @property
    def attended(self) -> bool:
        """Return whether the run asks a person before or after steps."""
        return any(when != PAUSE for when in self.stop_at)

    @property
    def pauses(self) -> bool:
        """Return whether a failed job waits at its failing step for `loom resume`."""
        return PAUSE in self.stop_at


class Prepared(Struct, frozen=True, kw_only=True):
    """A run that is ready to start."""

    run_id: str
    options: Options
    here: Here
    source: Source
    plan: Plan
    variables: Mapping[str, str]
    """The variables that loom sets for every job."""
    concerned: frozenset[str] | None = None
    """The jobs that the files in question leave in, where a rule looks at `changes`; None: all."""
    brought: Brought | None = None
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
    source = trusting.discover(Path.cwd(), os.environ, flag=options.trust)
    here = here_for(options, source.root)
    path = here.workflow(options.workflow)
    can_ask = ask and options.form == "screen"
    if options.dry_run:
        trusting.settle_objects(here, can_ask=can_ask)
    variables = checkout.run_variables(run_id, source, name_from(source.root, path), here.environ, options.event)
    planner = planner_of(options, here, variables, keeping=not options.dry_run)
    plan, notices = planner.made()
    source, behind = _commit_there(plan, source, variables.get("CI_DEFAULT_BRANCH", "main"))
    if (request := source.pull_request) is not None:
        variables |= checkout.of_merge(source, request)
        planner = planner_of(options, here, variables)
        plan, notices = planner.made()
        notices = (
            *notices,
            f"on the merge of {source.head_sha[:12]} into {request.base} ({request.tip[:12]}), as on GitHub",
        )
    plan = replace(plan, behind=behind)
    if source.unmerged and not (options.dry_run or options.allow_unmerged):
        raise _in_conflict(source)
    plan = undelayed(plan) if options.no_delay else plan
    if not options.dry_run:
        if trusting.settle(plan.jobs, here, lambda: planner.workflow, can_ask=can_ask):
            return prepare(options, touched=touched)  # now with the filters that were allowed
        if ask:
            project.say_not_counted(here.config)
    expected = options.workflow is not None or plan.workflow_path == str(project.WORKFLOWS[0])
    return Prepared(
        run_id=run_id,
        options=options,
        here=here,
        source=source,
        plan=plan,
        variables=variables,
        concerned=_concerned(planner, plan, touched) if touched is not None and planner.asks_for_changes else None,
        notices=(*(() if expected else (f"the workflow is {plan.workflow_path}",)), *notices, *_undecided(plan)),
    )


def _undecided(plan: Plan) -> Iterator[str]:
    """Say which jobs were decided by a value that is not known."""
    for name, jobs in plan.undecided.items():
        rules = ", ".join(listed(jobs, MOST_NAMED))
        yield (
            f"{name} is not known, and decides on {rules}: git remote set-head origin --auto (or BRANCH), or --var {name}=BRANCH"
        )


_OF_A_COMMIT = {"push", "workflow_dispatch", "release", "create", "merge_group"}
"""GitHub's events that run on the commit that they are of; others, but for pull requests, run on the default branch's."""


def _commit_there(plan: Plan, source: Source, default: str) -> tuple[Source, str]:
    """Return the source with the commit that GitHub would run for the plan's event, and why that can't be had here.

    RequestError for a pull request in conflict.
    """
    github = next((job.github for job in plan.jobs), None)
    event = github["event_name"] if github is not None else "push"
    if github is None or event in _OF_A_COMMIT:
        return source, ""
    if event != "pull_request":
        base = github["base_ref"] or default
        why = f"not the same commit: GitHub runs {event} on {base}, not on what is checked out here"
        return source, "" if base == source.branch else why
    base, refs = github["base_ref"], {name: sha for name, sha, _ in source.refs}
    tips = (refs.get(f"refs/{where}/{base}") for where in ("remotes/origin", "heads"))
    why = f"not the same commit: GitHub runs the merge with {base}"
    if (tip := next(filter(None, tips), None)) is None:
        return source, f"{why}, which is not known here: git fetch origin {base}"
    if checkout.git(source.root, source.environment, "merge-base", "--is-ancestor", tip, source.head_sha) is not None:
        return source, ""
    found = with_merge(source, base, tip)
    return (source, f"{why} ({tip[:12]}), {found}: merge it") if isinstance(found, str) else (found, "")


def _in_conflict(source: Source) -> RequestError:
    named = ", ".join(listed(map(readable, source.unmerged), MOST_NAMED))
    return RequestError(
        f"{source.root}: in conflict, which git would not commit: {named}",
        hint="resolve it, then `git add`; or run it as it is on disk: --allow-unmerged",
        code="UNMERGED",
    )


def planner_of(
    options: Options, here: Here, variables: Mapping[str, str] | None = None, *, keeping: bool = False
) -> Planner:
    """Return the planner for these options. `variables`: see `resolve_context`; `keeping`: see `Planner`."""
    path = here.workflow(options.workflow)
    context = contexts.resolve_context(
        here,
        path,
        predefined=variables,
        base=options.changes_base,
        event=options.event,
        given=options.var,
        inputs=options.inputs,
        event_file=options.event_file,
    )
    selection = JobSelection(
        jobs=tuple(options.names),
        stages=tuple(options.stage),
        from_job=options.from_job,
        with_needs=options.needs,
        variables=contexts.pairs(options.var, "--var"),
        matrix=contexts.pairs(options.matrix, "--matrix"),
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
    return replace(here, config=dataclasses.replace(here.config, keep="on-failure" if terminal.attended() else "never"))
