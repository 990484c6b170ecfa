"""Jobs on CI servers: what a server says of a job, its log, its artifacts and its variables.

A server's answer is a stranger's: it is checked against the types here, bounded, and never more than data.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Annotated, Any, BinaryIO, Literal, cast
from urllib.parse import unquote, urlsplit

from msgspec import Meta
from msgspec.structs import replace

from loom.addresses import Address
from loom.errors import InfrastructureError, RequestError
from loom.values import Immutable

MOST_JOBS = 5_000
Short = Annotated[str, Meta(max_length=4096)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,254}\Z")]
"""The name of a variable."""


class ServerRefused(RequestError):
    """The server does not give this to this token."""

    default_code = "SERVER_REFUSED"
    status = 0
    """The code of its answer."""


class ServerUnavailable(InfrastructureError):
    """No connection, a limit of requests, an error of the server's own, or an answer that can't be read."""

    default_code = "SERVER_UNAVAILABLE"


class ServerBusy(ServerUnavailable):
    """The server may answer when it is asked again, after the pause that it asks for."""

    pause_s: float | None = None


class JobAddress(Immutable):
    """The address of a job or a pipeline's page, divided."""

    kind: Literal["gitlab", "github"]
    server: str
    """Scheme and host, and the path of a server that is below one."""
    project: str
    pipeline: int | None = None
    attempt: int | None = None
    """Of a run; None: the last one."""
    job: int | None = None

    @property
    def host(self) -> str:
        return urlsplit(self.server).netloc

    def below_paths(self) -> Iterator[JobAddress]:
        """Yield the addresses that the page has if its server is below a path, of one part, of two ..."""
        parts = self.project.split("/")
        for size in range(1, len(parts) - 1):
            server = "/".join((self.server, *parts[:size]))
            yield replace(self, server=server, project="/".join(parts[size:]))


_OPEN = (
    *("created", "pending", "preparing", "waiting_for_resource", "waiting_for_callback", "scheduled", "manual"),
    *("running", "canceling", "requested", "queued", "waiting", "in_progress"),
)
"""The states that servers report for a job that has not ended."""


class RemoteJob(Immutable):
    id: int
    name: str
    status: str
    url: str
    sha: str
    ref: str
    is_tag: bool = False
    pipeline: int
    tags: Sequence[str] = ()
    """The labels of the runner that it asks for."""
    size: str = ""
    """CPUs and memory of that runner, as its server documents them; empty: not known."""
    has_artifacts: bool = False
    expired: bool = False
    allow_failure: bool = False
    started_at: str = ""
    finished_at: str = ""
    attempt: int | None = None

    @property
    def ended(self) -> bool:
        return self.status not in _OPEN

    @property
    def failed(self) -> bool:
        return self.status in ("failed", "failure", "timed_out")


class RemoteArtifact(Immutable):
    """An artifact of a whole run."""

    id: int
    name: Short
    expired: bool = False
    created_at: str = ""


class RemotePipeline(Immutable):
    source: str
    """The event, in the server's words."""
    default_branch: str
    variables: Mapping[str, str] = {}
    """The variables that were given to it."""
    unread: Sequence[str] = ()
    """The facts that the server does not give to this token, in words."""
    workflow: str = ""
    """The path of its file, where it has one of its own."""
    known: Mapping[str, str] = {}
    """The predefined variables that only the server can tell."""
    payload: Mapping[str, Any] | None = None
    """The parts of the event's payload that the server gives."""
    git_depth: int = 20
    """The depth of GitLab's clones, by the project's settings; 0: everything."""
    branch: str = ""
    """The branch that a merge or pull request comes from."""
    above: tuple[int, str] | None = None
    """The pipeline that started this one, and its job that did."""


class RemoteVariable(Immutable):
    """A variable of the project or a group on the server."""

    name: Name
    value: str | None
    """None: the server does not say it."""
    masked: bool = False
    protected: bool = False
    """Jobs of protected branches and tags alone get it."""
    file: bool = False
    expand: bool = True
    scope: str = "*"


class Server(ABC):
    """One project of a server, asked with one token."""

    whole = "pipeline"
    """The server's word for a run of all jobs."""

    def __init__(self, address: JobAddress) -> None:
        self.address = address

    def job(self, address: JobAddress) -> RemoteJob:
        """Return the job, or the first that failed of a pipeline or run. ServerRefused if none did."""
        if address.job is not None:
            return self._one(address.job)
        assert address.pipeline is not None
        return self._first_failed(address.pipeline, address.attempt)

    def last_failed(self, ref: str) -> RemoteJob:
        """Return the first failed job of the newest red pipeline of a branch."""
        if (newest := self._newest_failed(ref)) is None:
            raise ServerRefused(f"{self.address.project} has no failed {self.whole} of {ref}", hint="name its address")
        return self._first_failed(newest)

    @abstractmethod
    def pipeline(self, job: RemoteJob) -> RemotePipeline: ...

    @abstractmethod
    def variables(self, job: RemoteJob) -> tuple[Sequence[RemoteVariable], Sequence[str]]:
        """Return the variables, those that win last, and what the token may not read."""

    def is_protected(self, job: RemoteJob) -> bool | None:
        """Return whether the job's branch or tag is protected; None if unknown."""
        return None

    @abstractmethod
    def log(self, job: RemoteJob, file: BinaryIO) -> None: ...

    @abstractmethod
    def artifacts(self, job: RemoteJob | RemoteArtifact, file: BinaryIO) -> None:
        """Write the artifacts of a job, or one of a run: a zip file."""

    def artifacts_before(self, job: RemoteJob) -> Sequence[RemoteArtifact]:
        """Return the artifacts of the job's run from before the job, where they are the run's."""
        return ()

    @abstractmethod
    def _one(self, number: int) -> RemoteJob: ...

    @abstractmethod
    def _newest_failed(self, ref: str) -> int | None: ...

    @abstractmethod
    def jobs(self, pipeline: int, attempt: int | None = None) -> list[RemoteJob]:
        """Return the jobs of a pipeline, as they ended last, or in an attempt."""

    @abstractmethod
    def check_commit(self, sha: str) -> None:
        """Raise ServerRefused (404) for a commit that the server does not have."""

    @abstractmethod
    def sign_off(self, sha: str, name: str, description: str) -> None:
        """Post a commit status: success, with this name."""

    @abstractmethod
    def jobs_before(self, job: RemoteJob) -> list[RemoteJob]:
        """Return the jobs of the job's pipeline as they were when it began."""

    def failed_below(self, pipeline: int) -> int | None:
        """Return the pipeline in which a red one's failed job is, if it started that."""
        return None

    def _first_failed(self, pipeline: int, attempt: int | None = None) -> RemoteJob:
        failed = [job for job in self.jobs(pipeline, attempt) if job.failed]
        if all(job.allow_failure for job in failed) and (below := self.failed_below(pipeline)) is not None:
            return self._first_failed(below)
        if not failed:
            raise ServerRefused(f"no job of {self.whole} {pipeline} failed", hint="name the address of one of its jobs")
        return min(failed, key=lambda job: (job.allow_failure, job.id))


_GITLAB = re.compile(r"/(?P<project>[^/].*?)/-/(?P<what>jobs|pipelines)/(?P<id>\d{1,18})(?:/.*)?")
_GITHUB = re.compile(
    r"/(?P<project>[\w.-]+/[\w.-]+)/actions/runs/(?P<run>\d{1,18})(?:/attempts/(?P<attempt>\d{1,9}))?(?:/jobs?/(?P<job>\d{1,18}))?/?"
)
_HERE = ("127.0.0.1", "localhost", "[::1]", "::1")


def is_here(host: str) -> bool:
    """Return whether a host is this machine, which needs no encryption."""
    return host in _HERE


def place_of(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port. ServerRefused for an invalid address."""
    try:
        parts = urlsplit(url)
        return parts.scheme, (parts.hostname or "").lower(), parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    except ValueError as error:
        raise ServerRefused(f"{Address(url)}: {error}") from error


def is_address(text: str) -> bool:
    return text.startswith(("https://", "http://"))


def address_of(url: str) -> JobAddress:
    """Divide the address of a page. RequestError for another one."""
    parts = urlsplit(url)
    path, server = unquote(parts.path), f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    if parts.scheme == "http" and not is_here(parts.hostname or ""):
        raise RequestError(f"{server}: a token is sent over https alone", hint="write https://", code="SERVER_REFUSED")
    if found := _GITLAB.fullmatch(path):
        number = int(found["id"])
        of_job = found["what"] == "jobs"
        return JobAddress(
            kind="gitlab",
            server=server,
            project=found["project"],
            job=number if of_job else None,
            pipeline=None if of_job else number,
        )
    if found := _GITHUB.fullmatch(path):
        attempt, job = (int(found[name]) if found[name] else None for name in ("attempt", "job"))
        run = int(found["run"])
        return JobAddress(
            kind="github", server=server, project=found["project"], pipeline=run, attempt=attempt, job=job
        )
    raise RequestError(
        f"{server}{parts.path}: not the address of a job",
        hint="GitLab: https://HOST/GROUP/PROJECT/-/jobs/ID or .../-/pipelines/ID\n"
        "GitHub: https://HOST/OWNER/REPO/actions/runs/ID or .../job/ID",
    )


def server_of(address: JobAddress, token: str | None) -> Server:
    """Return the client of a server."""
    module = import_module(f"loom.commands.servers.{address.kind}")  # it asks over HTTP, whose library takes 50 ms
    return cast("Server", module.server(address, token))
