"""GitHub, by PyGithub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from typing import BinaryIO
from urllib.parse import urlsplit

import requests
from github import Auth, Github
from github.Artifact import Artifact
from github.GithubException import (
    BadAttributeException,
    BadCredentialsException,
    GithubException,
    RateLimitExceededException,
)
from github.PaginatedList import PaginatedList
from github.WorkflowJob import WorkflowJob

from loom.commands.servers import (
    LARGEST_ARCHIVE,
    LARGEST_LOG,
    MOST_JOBS,
    JobAddress,
    RemoteArtifact,
    RemoteJob,
    RemotePipeline,
    RemoteVariable,
    Server,
    ServerRefused,
    ServerUnavailable,
    tokens,
    unanswered,
    unavailable,
    write_bounded,
)
from loom.commands.servers.answers import GitHubJob, checked

TIMEOUT_S = 60
_SIZES = (
    (re.compile(r"ubuntu-(?:latest|\d\d\.\d\d)(?:-arm)?"), "4 CPUs, 16 GB (of a private repository: 2 CPUs, 8 GB)"),
    (re.compile(r"ubuntu-slim"), "1 CPU, 5 GB"),
)
"""The documented sizes of GitHub's own runners."""
_WORKFLOW = re.compile(r"\.github/workflows/[^/]+\.ya?ml")


class GitHubServer(Server):
    """One repository of GitHub, or of an Enterprise server."""

    whole = "run"

    def __init__(self, address: JobAddress, token: str | None) -> None:
        super().__init__(address, token)
        base = "https://api.github.com" if address.host == "github.com" else f"{address.server}/api/v3"
        self._github = Github(
            auth=Auth.Token(token) if token else None,
            base_url=base,
            timeout=TIMEOUT_S,
            per_page=100,
            user_agent="loom",
            retry=None,
            lazy=True,
            seconds_between_requests=None,
        )
        self._repository = self._github.get_repo(address.project)

    def _one(self, number: int) -> RemoteJob:
        return self._job(self._asked(f"job {number}", lambda: self._repository.get_workflow_job(number).raw_data))

    def _newest_failed(self, ref: str) -> int | None:
        runs = self._asked(
            f"the runs of {ref}",
            lambda: [*islice(self._repository.get_workflow_runs(branch=ref, status="failure"), 1)],  # type: ignore[arg-type]
        )
        return runs[0].id if runs else None

    def jobs(self, pipeline: int) -> list[RemoteJob]:
        repository = self._repository
        jobs = PaginatedList(
            WorkflowJob, repository.requester, f"{repository.url}/actions/runs/{pipeline}/jobs", {}, list_item="jobs"
        )
        listed = self._asked(f"the jobs of run {pipeline}", lambda: [_told(one) for one in islice(jobs, MOST_JOBS)])
        return [self._job(one) for one in listed]

    def pipeline(self, job: RemoteJob) -> RemotePipeline:
        run = self._asked(f"run {job.pipeline}", lambda: self._repository.get_workflow_run(job.pipeline).raw_data)
        repository, workflow = run.get("repository") or {}, str(run.get("path", "")).partition("@")[0]
        return RemotePipeline(
            source=str(run.get("event", "push")),
            default_branch=str(repository.get("default_branch") or ""),
            workflow=workflow if _WORKFLOW.fullmatch(workflow) else "",
            unread=("the inputs and the payload of the event, which the API does not have",),
        )

    def variables(self, job: RemoteJob) -> tuple[Sequence[RemoteVariable], Sequence[str]]:
        try:
            listed = self._asked("the variables", lambda: [*islice(self._repository.get_variables(), MOST_JOBS)])
        except ServerRefused:
            return [], ["the variables of the repository"]
        return [RemoteVariable(name=one.name, value=one.value) for one in listed], []

    def log(self, job: RemoteJob, file: BinaryIO) -> None:
        what = f"the log of job {job.id}"
        url = self._asked(what, lambda: self._repository.get_workflow_job(job.id).logs_url())
        self._download(what, url, file)

    def artifacts_before(self, job: RemoteJob) -> Sequence[RemoteArtifact]:
        repository = self._repository
        address = f"{repository.url}/actions/runs/{job.pipeline}/artifacts"
        listed = PaginatedList(Artifact, repository.requester, address, {}, list_item="artifacts")
        return self._asked(
            f"the artifacts of run {job.pipeline}",
            lambda: [
                RemoteArtifact(id=one.id, name=one.name, expired=one.expired)
                for one in islice(listed, MOST_JOBS)
                if not job.started_at or _moment(one.created_at) < job.started_at
            ],
        )

    def artifacts(self, job: RemoteJob | RemoteArtifact, file: BinaryIO) -> None:
        what = f"the artifact {job.name}"
        address = f"{self._repository.url}/actions/artifacts/{job.id}/zip"
        url = self._asked(what, lambda: self._repository.requester.requestBlobAndCheck("GET", address)[0]["location"])
        self._download(what, url, file, LARGEST_ARCHIVE)

    def _download(self, what: str, url: str, file: BinaryIO, most: int = LARGEST_LOG) -> None:
        """Read from the store that the server names, which gets no token, nor anything of the user's netrc."""

        def ask() -> requests.Response:
            answer = requests.get(url, timeout=TIMEOUT_S, stream=True, auth=lambda request: request)
            if answer.status_code != 200:
                answer.close()
                raise unavailable(f"{urlsplit(url).netloc}: {what}", answer.status_code, answer.headers)
            return answer

        with self._asked(what, ask) as answer, self._errors(what):
            write_bounded(answer.iter_content(1 << 18), file, most, what)

    def _job(self, answer: dict[str, object]) -> RemoteJob:
        found = checked(GitHubJob, answer, "a job")
        return RemoteJob(
            id=found.id,
            name=found.name,
            status=found.conclusion or found.status,
            url=found.html_url
            or f"{self.address.server}/{self.address.project}/actions/runs/{found.run_id}/job/{found.id}",
            sha=found.head_sha,
            ref=found.head_branch or "",
            pipeline=found.run_id,
            tags=found.labels,
            size=next((size for label in found.labels for name, size in _SIZES if name.fullmatch(label)), "")
            if self.address.host == "github.com"
            else "",
            started_at=found.started_at or "",
        )

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        host = self.address.host
        try:
            yield
        except RateLimitExceededException as error:
            hint = "wait an hour" + ("" if self._has_token else f", or {tokens.where(self.address)}")
            raise unavailable(f"{host}: {what}", 403, error.headers, hint) from None
        except GithubException as error:
            code = error.status
            if isinstance(error, BadCredentialsException) or code in (401, 403, 404, 410):
                raise self._refused(what, code, tokens.where(self.address)) from None
            raise unavailable(f"{host}: {what}", code, error.headers) from None
        except (RuntimeError, KeyError, BadAttributeException):
            raise ServerUnavailable(f"{host}: {what}: it sends the request elsewhere than documented") from None
        except requests.RequestException as error:
            raise unanswered(f"{host}: {what}", error) from None


def _told(job: WorkflowJob) -> dict[str, object]:
    """Return a job's data as its list has it; `raw_data` would cost one more request for each job."""
    names = ("id", "run_id", "name", "status", "conclusion", "html_url", "head_sha", "head_branch", "labels")
    return {**{name: getattr(job, name) for name in names}, "started_at": _moment(job.started_at)}


def _moment(moment: datetime) -> str:
    """Return a moment as the API writes it, which its text sorts by."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


server = GitHubServer
