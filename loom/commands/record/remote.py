"""Find a failed job, its server and its log by the address of its page, and diagnose a log."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

import typer
from msgspec.structs import replace

from loom.analysis.diagnosis import Diagnosis
from loom.analysis.server_log import ServerLog, diagnosis_of_log, read_log
from loom.commands.project import Project, checkout, trusting
from loom.commands.project.trust_store import ServerTrust
from loom.commands.servers import JobAddress, RemoteJob, Server, ServerRefused, address_of, is_address, server_of
from loom.commands.servers.tokens import NAMED, is_configured, token_for
from loom.commands.terminal import attended
from loom.errors import RequestError
from loom.plan.origin import ProjectOrigin, origin_of
from loom.plan.permissions import PermissionRequest
from loom.util.untrusted_files import open_regular
from loom.workflow.languages import GITHUB, GITLAB

T = TypeVar("T")


def remote_job(project: Project, url: str) -> tuple[Server, RemoteJob]:
    """Return the job that an address means; of a pipeline or run the first that failed."""
    address = address_of(url)
    server, job = reached(project, address, lambda server: server.job(address))
    if not job.ended:
        raise ServerRefused(f"{job.url}: the job has not ended: {job.status}", hint="try again when it has")
    return server, job


def reached(project: Project, address: JobAddress, ask: Callable[[Server], T]) -> tuple[Server, T]:
    """Return the server and what it is asked for; it may be below a path, as which the project's first groups count."""
    refused: ServerRefused | None = None
    for one in (address, *address.below_paths()):
        server = connected(project, one)
        try:
            return server, ask(server)
        except ServerRefused as error:
            refused = refused or error
            if error.status != 404:
                break
    assert refused is not None
    raise refused


def connected(project: Project, address: JobAddress) -> Server:
    may_send = partial(_may_send, project, address)
    token = token_for(address, project.environ, project.config, project.root, may_send=may_send)
    return server_of(address, token)


def _may_send(project: Project, address: JobAddress, name: str) -> bool:
    """Return whether the user allows a token of the environment for this server. RequestError without a terminal."""
    request = PermissionRequest(
        kind="token", subject=f"{name} to {address.host}", gives="loom reads jobs and variables there with it"
    )
    trust = ServerTrust(project.config.state_dir)
    if trust.allows(request):
        return True
    if not attended():
        raise RequestError(
            f"{trusting.CODE}: {name} is not sent to {address.host} before you allow it",
            hint=f"answer on a terminal, once; or name the server beside it ({NAMED[address.kind][0]}={address.host}), "
            f"or give it a token of its own: `keyring set loom {address.host}`",
            code=trusting.CODE,
        )
    if not typer.confirm(f"send {name} to {address.host}?"):
        return False
    trust.allow([request])
    return True


def home_of(project: Project) -> ProjectOrigin | None:
    """Return the project's server and path by the address of `origin`; None without one."""
    found = checkout.origin_of(project)
    return None if found is None else origin_of(str(found))


def address_of_origin(project: Project) -> JobAddress | None:
    """Return the address of the project on the server of `origin`, without a pipeline or job; None without one."""
    if (origin := home_of(project)) is None:
        return None
    is_github = (
        origin.host == "github.com"
        or is_configured("github", origin.server, project.environ)
        or (project.root.joinpath(GITHUB.default).is_dir() and not project.root.joinpath(GITLAB.default).exists())
    )
    page = "actions/runs/1" if is_github else "-/pipelines/1"
    return replace(address_of(f"{origin.protocol}://{origin.server}/{origin.path}/{page}"), pipeline=None)


@contextmanager
def downloaded(server: Server, job: RemoteJob) -> Iterator[BinaryIO]:
    """Yield the log as a file without a name."""
    with tempfile.TemporaryFile() as file:
        server.log(job, file)
        if not file.tell():
            raise ServerRefused(f"{job.url}: its log is empty", hint="it was erased, or the job never began")
        yield file


def read(file: BinaryIO, survived: Container[str] = ()) -> ServerLog:
    """Implement `read_log` for a file."""
    file.seek(0)
    return read_log(iter(lambda: file.read(1 << 18), b""), survived)


def diagnose_log(project: Project, named: str, job: str | None) -> Diagnosis:
    """Diagnose the job that a log is of."""
    if job is not None:
        raise RequestError(f"unexpected argument {job}: a log is of one job")
    if is_address(named):
        server, remote = remote_job(project, named)
        with downloaded(server, remote) as file:
            log = read(file)
        return diagnosis_of_log(
            log, remote.url, job=remote.name, root=project.root, again=f"loom reproduce {remote.url}"
        )
    try:
        with nullcontext(sys.stdin.buffer) if named == "-" else open_regular(Path(named)) as file:
            log = read_log(iter(lambda: file.read(1 << 18), b""))
    except OSError as error:
        raise RequestError(
            f"{named}: {error.strerror or error}: the log can't be read", code="LOG_UNREADABLE"
        ) from error
    if not log.lines_total:
        raise RequestError(f"{named}: the log is empty", code="LOG_UNREADABLE")
    return diagnosis_of_log(log, named, root=project.root)
