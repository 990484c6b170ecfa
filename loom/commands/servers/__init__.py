"""Jobs on CI servers: what a server says of a job, its log, its artifacts and its variables.

A server's answer is a stranger's: it is checked against the types here, bounded, and never more than data.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from typing import BinaryIO, Literal, TypeVar, cast
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from loom.commands.screen import progress_line
from loom.errors import InfrastructureError, RequestError
from loom.providers.retrying import Policy, retrying
from loom.util.extras import install_command
from loom.util.units import rough_size

MOST_JOBS = 5_000
LARGEST_LOG = 1 << 30
LARGEST_ARCHIVE = 16 << 30
BUSY = (429, 502, 503, 504)
T = TypeVar("T")


class ServerRefused(RequestError):
    """The server does not give this to this token."""

    default_code = "SERVER_REFUSED"


class ServerUnavailable(InfrastructureError):
    """No connection, a limit of requests, an error of the server's own, or an answer that can't be read."""

    default_code = "SERVER_UNAVAILABLE"


class ServerBusy(ServerUnavailable):
    """The server may answer when it is asked again, after the pause that it asks for."""

    pause_s: float | None = None


_BUSY = Policy(
    when=lambda error: isinstance(error, ServerBusy),
    attempts=4,
    limit_s=90.0,  # servers ask for up to a minute
    first_wait_s=1.0,
    asked_s=lambda error: getattr(error, "pause_s", None),
)


class JobAddress(Struct, frozen=True, kw_only=True):
    """The address of a job or a pipeline's page, divided."""

    kind: Literal["gitlab", "github"]
    server: str
    """Scheme and host."""
    project: str
    pipeline: int | None = None
    job: int | None = None

    @property
    def host(self) -> str:
        return urlsplit(self.server).netloc


_OPEN = (
    *("created", "pending", "preparing", "waiting_for_resource", "waiting_for_callback", "scheduled", "manual"),
    *("running", "canceling", "requested", "queued", "waiting", "in_progress"),
)
"""The states that servers report for a job that has not ended."""


class RemoteJob(Struct, frozen=True, kw_only=True):
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

    @property
    def ended(self) -> bool:
        return self.status not in _OPEN

    @property
    def failed(self) -> bool:
        return self.status in ("failed", "failure", "timed_out")


class RemoteArtifact(Struct, frozen=True, kw_only=True):
    """An artifact of a whole run."""

    id: int
    name: str
    expired: bool = False


class RemotePipeline(Struct, frozen=True, kw_only=True):
    source: str
    """The event, in the server's words."""
    default_branch: str
    variables: Mapping[str, str] = {}
    """The variables that were given to it."""
    unread: Sequence[str] = ()
    """The facts that the server does not give to this token, in words."""
    workflow: str = ""
    """The path of its file, where it has one of its own."""


class RemoteVariable(Struct, frozen=True, kw_only=True):
    """A variable of the project or a group on the server."""

    name: str
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

    def __init__(self, address: JobAddress, token: str | None) -> None:
        self.address = address
        self._has_token = token is not None

    def job(self, address: JobAddress) -> RemoteJob:
        """Return the job, or the first that failed of a pipeline or run. ServerRefused if none did."""
        if address.job is not None:
            return self._one(address.job)
        assert address.pipeline is not None
        return self._first_failed(address.pipeline)

    def last_failed(self, ref: str) -> RemoteJob:
        """Return the first failed job of the newest red pipeline of a branch."""
        if (newest := self._newest_failed(ref)) is None:
            raise ServerRefused(f"{self.address.project} has no failed {self.whole} of {ref}", hint="name its address")
        return self._first_failed(newest)

    @abstractmethod
    def pipeline(self, job: RemoteJob) -> RemotePipeline: ...

    @abstractmethod
    def variables(self, job: RemoteJob) -> tuple[Sequence[RemoteVariable], Sequence[str]]:
        """Return the variables of project and groups, and what the token may not read."""

    def is_protected(self, job: RemoteJob) -> bool:
        """Return whether the job's branch is protected; False if unknown."""
        return False

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
    def jobs(self, pipeline: int) -> list[RemoteJob]:
        """Return the jobs of a pipeline, as they ended last."""

    @abstractmethod
    def _errors(self, what: str) -> AbstractContextManager[None]:
        """Raise ServerRefused and ServerUnavailable for the errors of the library."""

    def _first_failed(self, pipeline: int) -> RemoteJob:
        failed = [job for job in self.jobs(pipeline) if job.failed]
        if not failed:
            raise ServerRefused(f"no job of {self.whole} {pipeline} failed", hint="name the address of one of its jobs")
        return min(failed, key=lambda job: (job.allow_failure, job.id))

    def _asked(self, what: str, ask: Callable[[], T]) -> T:
        def once() -> T:
            with self._errors(what):
                return ask()

        with progress_line(at_once=True) as show:
            return retrying(once, _BUSY, tell=lambda why: show(f"{why}; loom asks again"))

    def _refused(self, what: str, code: int, where: str) -> ServerRefused:
        who = "this token" if self._has_token else "anybody without a token"
        says = {
            401: "the token is not valid, or has expired",
            403: f"{who} may not read it",
            410: "it has expired",
        }.get(code, f"not there, or {who} may not read it")
        hint = "run the job there again, or the present one here: loom run JOB" if code == 410 else where
        return ServerRefused(f"{self.address.host}: {what}: {says} ({code})", hint=hint)


_GITLAB = re.compile(r"/(?P<project>[^/].*?)/-/(?P<what>jobs|pipelines)/(?P<id>\d{1,18})(?:/.*)?")
_GITHUB = re.compile(
    r"/(?P<project>[\w.-]+/[\w.-]+)/actions/runs/(?P<run>\d{1,18})(?:/attempts/\d+)?(?:/jobs?/(?P<job>\d{1,18}))?/?"
)
_HERE = ("127.0.0.1", "localhost", "[::1]", "::1")


def is_address(text: str) -> bool:
    return text.startswith(("https://", "http://"))


def address_of(url: str) -> JobAddress:
    """Divide the address of a page. RequestError for another one."""
    parts = urlsplit(url)
    path, server = unquote(parts.path), f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    if parts.scheme == "http" and parts.hostname not in _HERE:
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
        job = int(found["job"]) if found["job"] else None
        return JobAddress(kind="github", server=server, project=found["project"], pipeline=int(found["run"]), job=job)
    raise RequestError(
        f"{server}{parts.path}: not the address of a job",
        hint="GitLab: https://HOST/GROUP/PROJECT/-/jobs/ID or .../-/pipelines/ID\n"
        "GitHub: https://HOST/OWNER/REPO/actions/runs/ID or .../job/ID",
    )


def server_of(address: JobAddress, token: str | None) -> Server:
    """Return the client of a server. RequestError (EXTRA_MISSING) without its library."""
    try:
        module = import_module(
            f"loom.commands.servers.{address.kind}"
        )  # its library is an extra, and takes half a second
    except ImportError as error:
        raise RequestError(
            f"{address.host} needs the package of the extra {address.kind} ({error})",
            hint=install_command(address.kind),
            code="EXTRA_MISSING",
        ) from error
    return cast("Server", module.server(address, token))


def write_bounded(pieces: Iterable[bytes], file: BinaryIO, most: int, what: str) -> None:
    """Write a server's answer to a file, with progress on a terminal. ServerUnavailable beyond the size limit."""
    size = 0
    with progress_line() as show:
        for piece in pieces:
            size += len(piece)
            if size > most:
                raise ServerUnavailable(f"{what} has more than {most >> 20} MiB", hint="download it, and name the file")
            file.write(piece)
            show(f"{what}: {rough_size(size)}")


def unavailable(what: str, code: object, headers: Mapping[str, str] | None = None, hint: str = "") -> ServerUnavailable:
    """Return the error of a server that answered with this code: ServerBusy if it may answer later."""
    pause, limited = (headers or {}).get("retry-after", ""), bool(hint) or code == 429
    kind = ServerBusy if code in BUSY or pause.isdecimal() else ServerUnavailable
    advice = "wait as long as it asks for, and try again" if limited else "the server's own error; ask again"
    found = kind(f"{what}: {'too many requests' if limited else code}", hint=hint or advice)
    if isinstance(found, ServerBusy) and pause.isdecimal():
        found.pause_s = float(pause)
    return found


def unanswered(what: str, error: Exception) -> ServerUnavailable:
    """Return the error of a server that could not be asked."""
    kinds = (("SSL", "its certificate is not trusted"), ("Proxy", "the proxy"), ("Timeout", "no answer in time"))
    name = type(error).__name__
    why = next((words for kind, words in kinds if kind in name), "no connection" if "Connection" in name else name)
    return ServerUnavailable(f"{what}: {why}", hint="check the address and the connection (proxy, certificates)")
