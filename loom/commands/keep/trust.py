"""`loom trust`: show and record what the user allows a repository."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer
from msgspec.structs import asdict

from loom.commands.plan.plan_run import planner_of
from loom.commands.project import Project, open_project, say_not_counted
from loom.commands.project.trust_store import ServerTrust
from loom.commands.project.trusting import CODE, decisions_of, request_lines, requests_of
from loom.commands.terminal import attended
from loom.errors import RequestError, WorkflowError
from loom.plan.permissions import PermissionRequest
from loom.plan.resolve import rehearse
from loom.record.request import Request
from loom.render.output import print_kind
from loom.status import ExitCode
from loom.util.budget import LOOKING_S, limited
from loom.util.units import counted


@limited(LOOKING_S)
def everything_asked(project: Project, named: Path | None) -> tuple[PermissionRequest, ...]:
    """Find the requests of the workflow and all its jobs, regardless of rules. WorkflowError as in `loom check`.

    Before the user allows a file that the workflow includes, only those of the configuration and of such files are known.
    """
    if named is None and not project.workflow().exists():  # the configuration alone may have requests
        return requests_of((), project)
    planner = planner_of(project, Request.of({"workflow": named}))
    try:
        loaded = planner.workflow
    except WorkflowError:
        trust = decisions_of(project)
        if all(trust.allows(request) for request in project.includes):
            raise
        return (*project.includes, *requests_of((), project))
    # A run asks for what the actions and workflows of other repositories want.
    jobs = [job for _, job in rehearse(loaded, project.config, planner.context.repositories)[1]]
    return (*project.includes, *requests_of(jobs, project, lambda: loaded))


def trust(workflow: Path | None, *, yes: bool, revoke: bool, as_json: bool) -> int:
    project = open_project()
    decisions = decisions_of(project)
    if revoke:
        forgotten = decisions.revoke() + ServerTrust(project.config.state_dir).revoke()
        print(f"forgotten: {forgotten}" if forgotten else "there was nothing to forget")
        return ExitCode.OK
    requests = everything_asked(project, workflow)
    new = [request for request in requests if not decisions.allows(request)]
    if as_json:
        if yes and new:
            decisions.allow(new)
        listed = [
            {"id": request.id, **asdict(request), "job": request.job or None, "allowed": decisions.allows(request)}
            for request in requests
        ]
        values = {"root": str(decisions.root), "origin": decisions.origin, "requests": listed}
        print_kind("trust-list", values, kind="loom-trust")
        return ExitCode.OK
    say_not_counted(project.config)
    if not requests:
        print("nothing here needs your trust")
        return ExitCode.OK
    marked = request_lines(requests, lambda request: "allowed  " if decisions.allows(request) else "NEW      ")
    print("\n".join(marked))
    if not new:
        return ExitCode.OK
    if not yes:
        _confirm(new)
    decisions.allow(new)
    print(f"recorded for {decisions.root}; `loom trust --revoke` forgets it")
    if any(request.kind == "include" for request in new):  # the files there may ask for more
        return trust(workflow, yes=yes, revoke=False, as_json=False)
    return ExitCode.OK


def _confirm(new: Sequence[PermissionRequest]) -> None:
    if not attended():
        raise RequestError(
            f"{CODE}: {counted(len(new), 'thing')} not allowed yet",
            hint="`loom trust --yes` allows it without a question",
            code=CODE,
        )
    if not typer.confirm(f"Allow {counted(len(new), 'thing')} here from now on?"):
        raise RequestError("nothing was recorded", code=CODE)
