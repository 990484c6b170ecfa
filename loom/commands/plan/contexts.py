"""The facts and the selection that a plan is made of, from the checkout, the configuration and the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from loom.commands.plan.secret_file import read_secrets, with_secrets
from loom.commands.project import Project, checkout, trusting
from loom.errors import LoomError, RequestError, reason_of
from loom.plan import variables
from loom.plan.model import ResolveContext
from loom.plan.variables import HeadCommit
from loom.util.paths import name_from
from loom.workflow.facts import Variable


def resolve_context(
    project: Project,
    path: Path,
    *,
    predefined: Mapping[str, str] | None = None,
    base: str | None = None,
    event: str = "push",
    given: Iterable[str] = (),
    inputs: Iterable[str] = (),
    event_file: str | None = None,
    secret_file: str | None = None,
) -> ResolveContext:
    """Gather the facts about the checkout for one plan of the workflow at a path; git is asked once for each.

    `predefined` are loom's own variables (None: derived from git, for `event`); `base` is the commit for `changes:` (None:
    HEAD); `given` and `inputs`: `NAME=value` of the command line. RequestError for an unknown base.
    """
    if (
        base not in (None, NO_COMMIT)
        and checkout.git(project, "rev-parse", "--verify", "--end-of-options", f"{base}^{{commit}}") is None
    ):
        raise RequestError(
            f"--changes-base {base}: git knows no such branch, tag or commit here",
            hint="`git branch --all` lists the branches; one of another repository has to be fetched first",
            code="CHANGES_BASE_UNKNOWN",
        )
    if predefined is None:
        predefined = commit_variables(project, name_from(project.root, path), event)
    secrets = tuple(read_secrets(secret_file))
    return ResolveContext(
        config=with_secrets(project.config, secrets) if secrets else project.config,
        predefined=predefined,
        changed=cache(partial(_changed, project, base)),
        changes_base=base,
        files=cache(partial(checkout.files_of, project)),
        own_variables=cache(partial(_own_variables, project, predefined, secrets)),
        given=pairs(given, "--var"),
        inputs=pairs(inputs, "--input"),
        event_payload={} if event_file is None else _payload(event_file),
        # Imported where a file includes files of other servers, or uses actions.
        sources=lambda: import_module("loom.commands.plan.gitlab_sources").Elsewhere(project),
        repositories=cache(lambda: import_module("loom.commands.plan.github_sources").ActionRepositories(project)),
        above=_nothing_above,
    )


NO_COMMIT = "0" * 40
"""The id that stands for no commit, such as the one before a new branch was pushed."""


def _changed(project: Project, base: str | None, compare_to: str | None) -> list[str] | None:
    """Return what `changes` asks for; None, which is everything, where there is nothing to compare with."""
    return None if base == NO_COMMIT and not compare_to else checkout.changed_since(project, base, compare_to)


def commit_variables(project: Project, workflow_path: str, event: str) -> dict[str, str]:
    """Make the variables that `loom run` gives, for commands that make a plan without a run (and without its id).

    Without a repository that a run could use, those are missing that come from it.
    """
    try:
        source = trusting.discover(project.root, project.environ, flag=project.trusting)
    except LoomError:
        name, none = variables.project_name_of(project.root), HeadCommit(sha="")
        found = variables.run_variables(
            run_id="", event=event, workflow_path=workflow_path, commit=none, project_name=name, origin_url=None
        )
    else:
        found = checkout.run_variables("", source, workflow_path, project.environ, event)
    return {name: value for name, value in found.items() if value}


def _payload(path: str) -> dict[str, Any]:
    import json  # for this option alone

    try:
        found = json.loads(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        why = reason_of(error) if isinstance(error, OSError) else f"not JSON: {error}"
        raise RequestError(f"--event-file {path}: {why}") from error
    if not isinstance(found, dict):
        raise RequestError(f"--event-file {path}: expected an object, the payload of one event")
    return found


def _nothing_above(pipeline: str, job: str) -> NoReturn:
    raise RequestError(f"no pipeline started this one, so {job} of pipeline {pipeline} left nothing for it")


def _own_variables(project: Project, predefined: Mapping[str, str], secrets: tuple[str, ...]) -> Mapping[str, Variable]:
    path = project.config.gitlab.variables
    if path is None and not secrets:
        return {}
    from loom.workflow.gitlab import variables  # only a GitLab file has such variables

    of_project = predefined.get("CI_PROJECT_PATH") or predefined.get("CI_PROJECT_NAME", "")
    return {**(variables.own(path, of_project) if path is not None else {}), **variables.secret_variables(secrets)}


def pairs(given: Iterable[str], flag: str) -> dict[str, str]:
    """Parse `NAME=value` options."""
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise RequestError(f"{flag} {text}: expected NAME=value")
        found[name] = value
    return found
