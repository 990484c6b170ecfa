"""The variables that a CI server has for a job, as settings of the workflow's language."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loom.analysis.diff import Pair
from loom.commands import terminal
from loom.commands.project import Here
from loom.commands.servers import RemoteJob, RemoteVariable, Server
from loom.util import atomic
from loom.workflow.gitlab import variables as of_gitlab


class ServerVariables:
    """`notes` and `differs` get what can't be had."""

    def __init__(
        self, here: Here, server: Server, job: RemoteJob, directory: Path, notes: list[str], differs: list[Pair]
    ) -> None:
        self._here = here
        self._server = server
        self._address = server.address
        self._job = job
        self._directory = directory
        self._notes = notes
        self._differs = differs

    def settings(self, git_depth: int) -> dict[str, Any]:
        """Return the settings of the workflow's language, with the server's variables; `git_depth`: of GitLab's clones."""
        found, unread = self._server.variables(self._job)
        self._notes += [f"unknown: {what}" for what in unread]
        if self._address.kind == "gitlab":
            return {**self._of_gitlab(found), "git_depth": git_depth}
        settings = self._here.config.github
        return {
            "server": settings.server,
            "secrets": dict(settings.secrets),
            "vars": {**settings.vars, **{one.name: one.value for one in found if one.value is not None}},
        }

    def _of_gitlab(self, found: Sequence[RemoteVariable]) -> dict[str, Any]:
        """Return the settings for a GitLab file, with the server's variables; the user's own fill in what it does not tell.

        Values of masked ones stay in this process's environment: loom masks them, and writes them nowhere.
        """
        protected = [one.name for one in found if one.protected]
        of_protected = self._server.is_protected(self._job) if protected else True
        if not of_protected:
            # The server keeps them from this job: anybody may have pushed its commit.
            names, ref = ", ".join(protected), self._job.ref
            self._notes.append(
                f"unknown: whether {ref} is protected; without its protected variables: {names}"
                if of_protected is None
                else f"protected variables, which {ref} does not get: {names}"
            )
            found = [one for one in found if not one.protected]
        settings = self._here.config.gitlab
        path = settings.variables
        own = of_gitlab.own(path, self._address.project) if path is not None else {}
        document: dict[str, Any] = {
            name: {"ref": one.ref, "file": one.file} if one.ref else {"value": one.value, "file": one.file}
            for name, one in own.items()
            if not one.environments
        }
        for one in found:
            if (entry := self._entry(one, known=one.name in document)) is None:
                continue
            if one.scope == "*":
                document[one.name] = entry
            else:
                scoped = document.setdefault(one.name, {}).get("environments", {})
                document[one.name] = {"environments": {**scoped, one.scope: entry}}
        target = self._directory / "variables.json"
        atomic.write(target, json.dumps(document).encode())
        target.chmod(0o600)
        return {
            "variables": str(target),
            "projects": {name: str(path) for name, path in settings.projects.items()},
            "secrets": dict(settings.secrets),
            **({"templates": str(settings.templates)} if settings.templates is not None else {}),
        }

    def _entry(self, one: RemoteVariable, *, known: bool) -> dict[str, Any] | None:
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
            self._notes.append(
                f"the server hides the value of {one.name}: give it as a variable of the environment of that name"
            )
            self._differs.append(Pair(name=f"variable {one.name}", a="set, hidden", b=None))
        return None
