"""The variables that a CI server has for a job, as settings of the workflow's language."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Sequence
from typing import Any

from loom.commands import terminal
from loom.commands.again.server_job import ServerJob
from loom.commands.servers import RemoteVariable
from loom.util import atomic
from loom.workflow.gitlab import variables as of_gitlab


def settings(there: ServerJob, git_depth: int) -> dict[str, Any]:
    """Return the settings of the workflow's language, with the server's variables; `git_depth`: of GitLab's clones."""
    found, unread = there.server.variables(there.job)
    for what in unread:
        there.differences.note(f"unknown: {what}")
    if there.address.kind == "gitlab":
        return {**_gitlab_settings(there, found), "git_depth": git_depth}
    settings = there.project.config.github
    return {
        "server": settings.server,
        "secrets": dict(settings.secrets),
        "vars": {**settings.vars, **{one.name: one.value for one in found if one.value is not None}},
    }


def _gitlab_settings(there: ServerJob, found: Sequence[RemoteVariable]) -> dict[str, Any]:
    """Return the settings for a GitLab file, with the server's variables; the user's own fill in what it does not tell.

    Values of masked ones stay in this process's environment: loom masks them, and writes them nowhere.
    """
    protected = [one.name for one in found if one.protected]
    of_protected = there.server.is_protected(there.job) if protected else True
    if not of_protected:
        # The server keeps them from this job: anybody may have pushed its commit.
        names, ref = ", ".join(protected), there.job.ref
        there.differences.note(
            f"unknown: whether {ref} is protected; without its protected variables: {names}"
            if of_protected is None
            else f"protected variables, which {ref} does not get: {names}"
        )
        found = [one for one in found if not one.protected]
    settings = there.project.config.gitlab
    path = settings.variables
    own = of_gitlab.own(path, there.address.project) if path is not None else {}
    document: dict[str, Any] = {
        name: {"ref": one.ref, "file": one.file} if one.ref else {"value": one.value, "file": one.file}
        for name, one in own.items()
        if not one.environments
    }
    for one in found:
        if (entry := _entry(there, one, known=one.name in document)) is None:
            continue
        if one.scope == "*":
            document[one.name] = entry
        else:
            scoped = document.setdefault(one.name, {}).get("environments", {})
            document[one.name] = {"environments": {**scoped, one.scope: entry}}
    target = there.directory / "variables.json"
    atomic.write(target, json.dumps(document).encode())
    target.chmod(0o600)
    return {
        "variables": str(target),
        "projects": {name: str(path) for name, path in settings.projects.items()},
        "secrets": dict(settings.secrets),
        **({"templates": str(settings.templates)} if settings.templates is not None else {}),
    }


def _entry(there: ServerJob, one: RemoteVariable, *, known: bool) -> dict[str, Any] | None:
    if one.value is not None and not one.masked:
        return {"value": one.value, "file": one.file, "expand": one.expand}
    if one.value is None and one.name in os.environ:
        return {"ref": f"env://{one.name}", "file": one.file}
    value = one.value
    if value is None and not known and terminal.attended():
        value = getpass.getpass(f"{one.name}, which the server hides: ") or None
    if value is not None:
        os.environ[f"REPRODUCE_{one.name}"] = value
        return {"ref": f"env://REPRODUCE_{one.name}", "file": one.file}
    if not known:
        note = f"the server hides the value of {one.name}: give it as a variable of the environment of that name"
        there.differences.add(f"variable {one.name}", "set, hidden", note=note)
    return None
