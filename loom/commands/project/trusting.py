"""List what a repository asks the user for, and ask before a job starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from loom import config
from loom.commands.project import Project, trusts_all
from loom.commands.project.checkout import is_ignored
from loom.commands.terminal import attended
from loom.errors import RequestError
from loom.plan import permissions
from loom.plan.permissions import PermissionRequest
from loom.snapshot import repository, source
from loom.snapshot.repository import RepositoryView
from loom.util.controls import shown
from loom.util.paths import run_of_workspace
from loom.util.units import counted
from loom.values import Environ

if TYPE_CHECKING:
    from loom.commands.project.trust_store import Trust
    from loom.plan.model import Job
    from loom.snapshot import Source
    from loom.workflow.loaded import Loaded

CODE = "TRUST_REQUIRED"


def requests_of(
    jobs: Iterable[Job], project: Project, workflow: Callable[[], Loaded] | None = None
) -> tuple[PermissionRequest, ...]:
    """Find the requests of these jobs and of the repository; `workflow`, called for a request, has its position."""

    def is_reference(reference: str) -> bool:
        from loom.secrets.lookup import check_reference  # 20 ms, for jobs with secrets alone

        return check_reference(reference) is None

    around = permissions.TrustContext(
        root=project.root,
        home=project.environ.get("HOME"),
        network=project.config.network,
        pools=project.config.pools,
        is_reference=is_reference,
        judged=project.judged,
        is_ignored=partial(is_ignored, project),
    )
    position_of = None if workflow is None else partial(_position_in, workflow)
    found = repository.find(project.root, project.environ)
    return (
        *_filter_requests(found),
        *_object_requests(found, project),
        *permissions.requests_of(jobs, around, position_of),
    )


def _filter_requests(found: RepositoryView | None) -> list[PermissionRequest]:
    """Find the requests of a repository whose own configuration names programs."""
    return [
        PermissionRequest(
            kind="filter",
            subject=f"{key}: {value}",
            gives="git runs this program for files of the checkout",
            position=".git/config:1:1",
        )
        for key, value in (found.filters if found is not None else ())
    ]


def _object_requests(found: RepositoryView | None, project: Project) -> list[PermissionRequest]:
    """Find the requests of a repository that borrows its objects from others: an archive may name any of the user's."""
    stores = list(source.lenders(found.common_dir / "objects")) if found is not None else []
    return _store_requests(stores, project.root, project.environ, decisions_of(project)) if stores else []


def _store_requests(stores: Sequence[Path], root: Path, environ: Environ, trust: Trust) -> list[PermissionRequest]:
    if trust.root != Path(os.path.realpath(root)):
        # A workspace borrows from its checkout, whose own borrowing was asked about there.
        of_checkout = repository.find(trust.root, environ)
        known = set() if of_checkout is None else set(source.store_paths(of_checkout.common_dir / "objects"))
        stores = [store for store in stores if store not in known]
    return [
        PermissionRequest(
            kind="objects",
            subject=str(store),
            gives="jobs can read all that is committed in that repository",
            position=".git/objects/info/alternates:1:1",
        )
        for store in stores
    ]


def discover(start: Path, environ: Environ, *, flag: bool = False) -> Source:
    """Find the repository around `start`, with what the user, or `flag`, allows it: filters of its own configuration, and the
    objects of other repositories.
    """

    def allowed(found: RepositoryView) -> bool:
        return trusts_all(environ, flag) or all(map(_trust_of(found.root, environ).allows, _filter_requests(found)))

    def lends(stores: Sequence[Path]) -> bool:
        if trusts_all(environ, flag):
            return True
        trust = _trust_of(made.root, environ)
        # A hook of git's has an object store of its own, which borrows from the repository's.
        others = [store for store in stores if store != made.common_dir / "objects"]
        return all(map(trust.allows, _store_requests(others, made.root, environ, trust)))

    made = source.discover(start, environ=environ, filters=allowed, lends=lends)
    return made


def _trust_of(root: Path, environ: Environ) -> Trust:
    from loom.commands.project.trust_store import Trust  # as in `decisions_of`

    return Trust(config.load(root=root, environ=environ, flags={}).state_dir, root, environ)


def checkout_of(project: Project) -> Path:
    """Return the checkout that a project's files were taken from: its own, if it is no workspace."""
    if run_of_workspace(project.root.name) is None:
        return project.root
    from loom.commands.project.trust_store import checkout_of  # as in `decisions_of`

    return checkout_of(project.root, project.config.state_dir)


def decisions_of(project: Project) -> Trust:
    from loom.commands.project.trust_store import Trust  # only for a project that asks for something

    return Trust(project.config.state_dir, project.root, project.environ)


def settle(
    jobs: Iterable[Job], project: Project, workflow: Callable[[], Loaded] | None = None, *, can_ask: bool = True
) -> bool:
    """Return once the user has allowed all that the jobs and the repository ask for, and whether the answer is new.

    `workflow`: see `requests_of`. Without a terminal, and on a "no": RequestError TRUST_REQUIRED.
    """
    return _settled(requests_of(jobs, project, workflow), project, can_ask=can_ask)


def settle_objects(project: Project, *, can_ask: bool = True) -> None:
    """Return once the user has allowed the repository the objects that it borrows. Errors as of `settle`."""
    _settled(_object_requests(repository.find(project.root, project.environ), project), project, can_ask=can_ask)


def _settled(requests: Sequence[PermissionRequest], project: Project, *, can_ask: bool) -> bool:
    if not requests or trusts_all(project.environ, project.trusting):
        return False
    trust = decisions_of(project)
    new = [request for request in requests if not trust.allows(request)]
    if not new:
        return False
    if can_ask and attended():
        print(f"This repository asks for {counted(len(new), 'thing')} that a plain container does not get:")
        for line in request_lines(new):
            print(f"  {line}")
        if typer.confirm("Allow this here from now on?"):
            trust.allow(new)
            return True
    raise RequestError(
        f"{CODE}: {trust.root} asks for {counted(len(new), 'thing')} that you have not allowed",
        hint="\n".join(
            [
                *request_lines(new),
                "`loom trust` records your decision; --trust (or LOOM_TRUST=1) allows all of it for this one time",
            ]
        ),
        code=CODE,
    )


def request_lines(
    requests: Sequence[PermissionRequest], mark: Callable[[PermissionRequest], str] = lambda _: ""
) -> list[str]:
    return [shown(f"{mark(item)}{f'{item.position}: ' if item.position else ''}{item}") for item in requests]


def _position_in(workflow: Callable[[], Loaded], job: str, path: tuple[str | int, ...]) -> str:
    loaded = workflow()
    entry = loaded.entry_of(job)
    if entry is None:
        return f"{loaded.path}:1:1"
    node = entry.merged
    for key in path:
        if (child := node.get(key)) is None:
            break
        node = child
    return (entry.key if node is entry.merged else node).position
