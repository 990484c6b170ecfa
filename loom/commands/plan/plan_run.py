"""Make a run from a checkout and a request."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from msgspec.structs import asdict, replace

from loom.cancel import Cancel
from loom.commands import terminal
from loom.commands.plan import contexts
from loom.commands.plan.kept_plans import Planner
from loom.commands.project import WORKFLOWS, Project, Worktree, checkout, open_project, say_not_counted, trusting
from loom.config import Config
from loom.errors import EngineUnavailable, InfrastructureError, LoomError, RequestError, WorkflowError
from loom.images.reference import replacement
from loom.plan.model import JobSelection, Plan, WorkspaceMode
from loom.record.request import Request
from loom.record.run import Run
from loom.snapshot import Source, readable, with_merge
from loom.util.bounded import listed
from loom.util.paths import name_from

MOST_NAMED = 10
"""Files in conflict that a message names."""


def checkout_for(
    request: Request, *, root: Path | None = None, settings: Mapping[str, Any] | None = None, renewing: bool = False
) -> Worktree:
    """Read the checkout at `root` (None: around the current directory). `settings` count more than those of the request.

    `renewing`: see `Project`.

    `keep: auto` becomes `on-failure` on a terminal, else `never`.
    """
    source = trusting.discover(root or Path.cwd(), os.environ, flag=request.trust)
    project = open_project(
        {**request.settings, **(settings or {})}, root=source.root, trusting=request.trust, renewing=renewing
    )
    if project.config.keep == "auto":
        config = dataclasses.replace(project.config, keep="on-failure" if terminal.attended() else "never")
        project = replace(project, config=config)
    return Worktree(**asdict(project), source=source)


def plan_run(
    request: Request,
    *,
    run_id: str = "",
    ask: bool = True,
    settings: Mapping[str, Any] | None = None,
    renewing: bool = False,
) -> tuple[Worktree, Run]:
    """Make the run that is asked for. After RequestError or WorkflowError there is no record.

    `ask`: a person is at the terminal, to be told of settings that do not count, and asked for trust. `settings` and
    `renewing`: see `checkout_for`.
    """
    run_id = run_id or str(time.time_ns())
    project = checkout_for(request, settings=settings, renewing=renewing)
    source, path = project.source, project.workflow(request.workflow)
    can_ask = ask and request.form == "screen"
    if request.dry_run:
        trusting.settle_objects(project, can_ask=can_ask)
    variables = checkout.run_variables(
        run_id, source, name_from(source.root, path), project.environ, request.event, root=trusting.checkout_of(project)
    )
    planner = planner_of(project, request, variables, keeping=not request.dry_run)
    try:
        plan, notices = planner.made()
    except InfrastructureError as error:
        if error.code != "ACTION_UNREACHABLE":
            raise
        raise _with_missing_images(error, planner, project, request, variables) from error
    source, behind = _commit_there(plan, source, variables.get("CI_DEFAULT_BRANCH", "main"))
    if project.unanswered:
        old = ", ".join(listed(project.unanswered, MOST_NAMED))
        behind = behind or f"there is no answer, so that the last copy counts, from {old}"
    project = replace(project, source=source)
    if (merged := source.pull_request) is not None:
        variables |= checkout.merge_variables(source, merged)
        planner = planner_of(project, request, variables)
        plan, notices = planner.made()
        on_merge = f"on the merge of {source.head_sha[:12]} into {merged.base} ({merged.tip[:12]}), as on GitHub"
        notices = (*notices, on_merge)
    plan = replace(plan, behind=behind)
    if source.unmerged and not (request.dry_run or request.allow_unmerged):
        raise _conflict_error(source)
    if not request.dry_run:
        if trusting.settle(plan.jobs, project, lambda: planner.workflow, can_ask=can_ask):
            return plan_run(request, settings=settings, renewing=renewing)  # now with the filters that were allowed
        if ask:
            say_not_counted(project.config)
    expected = request.workflow is not None or plan.workflow_path == str(WORKFLOWS[0])
    notices = (
        *(() if expected else (f"the workflow is {plan.workflow_path}",)),
        *notices,
        *_undecided(plan),
        *_unused_images(project.config, plan),
    )
    return project, run_of(project, request, plan, variables, notices=notices)


def _with_missing_images(
    error: LoomError, planner: Planner, project: Worktree, request: Request, variables: Mapping[str, str]
) -> LoomError:
    """Return the error of actions that can't be had, with the images that can't be had either."""
    from loom.commands.plan.wiring import run_tools
    from loom.runner.preflight import missing_images, together

    try:
        plan, _ = planner.without_repositories()
    except WorkflowError:
        return error
    run = run_of(project, request, plan, variables)
    missing = missing_images(plan, run_tools(project, run, Cancel()))
    of_request = (one for one in missing if not (request.dry_run and isinstance(one, EngineUnavailable)))
    return together([error, *of_request])


def run_of(
    project: Worktree,
    request: Request,
    plan: Plan,
    variables: Mapping[str, str],
    *,
    notices: tuple[str, ...] = (),
    **more: Any,
) -> Run:
    """Return the run of a plan; `variables` have its id. `more`: see `Run`."""
    config = project.config
    return Run(
        run_id=variables["LOOM_RUN_ID"],
        command=tuple(sys.argv),
        request=repeatable(request, project),
        repo_root=project.source.root,
        plan=plan,
        variables=variables,
        mount_mode=WorkspaceMode(config.mount_mode),
        read_only_mounts=project.source.read_only_mounts,
        container=config.container,
        isolated=request.strict,
        grace_s=config.grace,
        detached=request.detach,
        notices=(*_not_isolated(plan, config), *notices),
        **more,
    )


def repeatable(request: Request, project: Project) -> Request:
    """Return the request as it can be repeated from elsewhere: with the variables that gave settings."""
    found = {
        origin.source: project.config.text_of(name)
        for name, origin in project.config.origins.items()
        if origin.layer == "environment" and origin.source.startswith("LOOM_")
    }
    elsewhere = request.workflow is not None and project.start != project.root
    return replace(
        request,
        environment={**request.environment, **found},
        workflow=str(project.workflow(request.workflow)) if elsewhere else request.workflow,
    )


def _not_isolated(plan: Plan, config: Config) -> tuple[str, ...]:
    jobs = [job.id for job in plan.jobs if job.image is None]
    if not jobs:
        return ()
    by = config.origins.get("container")
    why = f" ({by.source})" if by is not None and by.source and not config.container else ""
    some = ", ".join(jobs[:5]) + (f" and {len(jobs) - 5} more" if len(jobs) > 5 else "")
    return (f"on this machine, not isolated{why}: {some}; in a container: loom run --container",)


def _unused_images(config: Config, plan: Plan) -> Iterator[str]:
    """Say which `--image` of the command line names none of the plan's images, nor a runner's label."""
    if config.origins["images"].layer == "flag" and not any(job.github is not None for job in plan.jobs):
        for name in config.images:
            if replacement(name, plan.replaced) is None:
                yield f"--image {name}: no job of this run has this image; `loom jobs` lists them"


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
    from loom.plan.github.events import ON_MERGE, text_at  # which no run of another language needs

    if event not in ON_MERGE:
        why = f"not the same commit: GitHub runs {event} on {default}, not on what is checked out here"
        return source, "" if default == source.branch else why
    base = text_at(github, "event", "pull_request", "base", "ref")
    refs = {name: sha for name, sha, _ in source.refs}
    tips = (refs.get(f"refs/{where}/{base}") for where in ("remotes/origin", "heads"))
    why = f"not the same commit: GitHub runs the merge with {base}"
    if (tip := next(filter(None, tips), None)) is None:
        return source, f"{why}, which is not known here: git fetch origin {base}"
    if tip == source.head_sha:
        return source, ""  # of which nobody can open a pull request
    found = with_merge(source, base, tip)
    return (source, f"{why} ({tip[:12]}), {found}: merge it") if isinstance(found, str) else (found, "")


def _conflict_error(source: Source) -> RequestError:
    named = ", ".join(listed(map(readable, source.unmerged), MOST_NAMED))
    return RequestError(
        f"{source.root}: in conflict, which git would not commit: {named}",
        hint="resolve it, then `git add`; or run it as it is on disk: --allow-unmerged",
        code="UNMERGED",
    )


def planner_of(
    project: Project, request: Request, variables: Mapping[str, str] | None = None, *, keeping: bool = False
) -> Planner:
    """Return the planner for a request. `variables`: see `resolve_context`; `keeping`: see `Planner`."""
    path = project.workflow(request.workflow)
    context = contexts.resolve_context(
        project,
        path,
        predefined=variables,
        base=request.changes_base,
        event=request.event,
        given=request.var,
        inputs=request.inputs,
        event_file=request.event_file,
        secret_file=request.secret_file,
    )
    return Planner(path, project, selection_of(request, project.config), context, keeping=keeping)


def selection_of(request: Request, config: Config) -> JobSelection:
    """Return the jobs that are asked for, and what all plans of a request have in common."""
    return JobSelection(
        jobs=request.names,
        stages=request.stage,
        from_job=request.from_job,
        with_needs=request.needs,
        variables=contexts.pairs(request.var, "--var"),
        matrix=contexts.pairs(request.matrix, "--matrix"),
        container=config.container,
        on=config.on,
        no_delay=request.no_delay,
    )


def concerned(project: Worktree, run: Run, touched: AbstractSet[str]) -> frozenset[str] | None:
    """Return the jobs of the run that would be in its plan if only these files had changed.

    None: all, where no rule looks at `changes`.
    """
    planner = planner_of(project, run.request, run.variables, keeping=True)
    planner.made()
    if not planner.asks_for_changes:
        return None

    def changed(compare_to: str | None) -> list[str] | None:
        since = planner.context.changed(compare_to)
        # A new directory may be all that is known of what came with it.
        return None if since is None else [p for p in since if not touched.isdisjoint((p, *map(str, Path(p).parents)))]

    try:
        left = planner.with_changed(changed)
    except WorkflowError:  # a job needs one that would be left out
        return None
    return frozenset(job.id for job in left.jobs) & {job.id for job in run.plan.jobs}
