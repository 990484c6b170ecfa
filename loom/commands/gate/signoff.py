"""`loom signoff`: what a run here has shown of a commit, as statuses of the commit on the server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from loom.commands.gate.attest import jobs_of, shown
from loom.commands.project import open_project
from loom.commands.record.remote import address_of_origin, reached
from loom.commands.servers import ServerRefused
from loom.errors import RequestError
from loom.render.output import print_either

_CONTEXT = "loom"
_LONGEST = 140
"""Characters of a description on GitHub."""


def signoff(what: str, *, each: bool, as_json: bool) -> None:
    project = open_project()
    judgement = shown(project, what)
    jobs, commit = jobs_of(judgement), judgement.commit.sha
    if (address := address_of_origin(project)) is None:
        raise RequestError("there is no origin on a server", hint="git remote add origin URL")
    with _said(commit):
        server, _ = reached(project, address, lambda server: server.check_commit(commit))
        text = f"passed here: {', '.join(jobs)}"
        names = [f"{_CONTEXT}/{job}" for job in jobs] if each else [_CONTEXT]
        for name in names:
            server.sign_off(commit, name, text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…")
    lines = [f"commit {commit[:12]} on {address.host}: {', '.join(names)} is success"]
    print_either(as_json, "signoff", {"commit": commit, "statuses": names}, lines)


@contextmanager
def _said(commit: str) -> Iterator[None]:
    """Say what a refusal of the server means here."""
    try:
        yield
    except ServerRefused as error:
        if error.status == 404:
            raise ServerRefused(
                f"{error.message}", hint=f"push it first: git push origin {commit[:12]}:BRANCH"
            ) from None
        if error.status == 403:
            scope = "GitLab: the scope api; GitHub: Commit statuses, write (classic: repo:status)"
            raise ServerRefused(error.message, hint=f"a token that may post statuses is needed. {scope}") from None
        raise
