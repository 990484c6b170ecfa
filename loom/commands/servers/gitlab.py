"""GitLab, by python-gitlab."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from typing import Any, BinaryIO

import gitlab
import requests
from gitlab.exceptions import GitlabAuthenticationError, GitlabError

from loom.commands.servers import (
    BUSY,
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
    tokens,
    unanswered,
    unavailable,
    write_bounded,
)
from loom.commands.servers.answers import (
    GitLabBranch,
    GitLabJob,
    GitLabPipeline,
    GitLabProject,
    GitLabVariable,
    checked,
)

TIMEOUT_S = 60.0
_HOSTED = re.compile(r"saas-linux-(small|medium|large|xlarge|2xlarge)-(?:amd64|arm64)")
_SIZES = {
    "small": "2 CPUs, 8 GB",
    "medium": "4 CPUs, 16 GB",
    "large": "8 CPUs, 32 GB",
    "xlarge": "16 CPUs, 64 GB",
    "2xlarge": "32 CPUs, 128 GB",
}
"""The documented sizes of gitlab.com's runners."""


def _unless_busy(answer: requests.Response, **_: object) -> None:
    """Raise HTTPError for a busy server: the library would wait as long as it says."""
    if answer.status_code in BUSY:
        answer.close()
        raise requests.HTTPError(response=answer)


class GitLabServer(Server):
    """One project of a GitLab server."""

    def __init__(self, address: JobAddress, token: str | None) -> None:
        super().__init__(address, token)
        session = requests.Session()
        session.hooks["response"].append(_unless_busy)
        # As `Authorization`, which the HTTP library takes away where the server redirects to another host.
        self._gitlab = gitlab.Gitlab(
            address.server,
            oauth_token=token,
            timeout=TIMEOUT_S,
            per_page=100,
            user_agent="loom",
            session=session,
            keep_base_url=True,  # never follow an address of another host in a list's `next`
        )
        self._project = self._gitlab.projects.get(address.project, lazy=True)

    def _one(self, number: int) -> RemoteJob:
        return self._job(self._asked(f"job {number}", lambda: self._project.jobs.get(number)))

    def _newest_failed(self, ref: str) -> int | None:
        newest = self._asked(
            f"the pipelines of {ref}",
            lambda: self._project.pipelines.list(ref=ref, status="failed", per_page=1, page=1, get_all=False),
        )
        return checked(GitLabPipeline, newest[0].attributes, "a pipeline").id if newest else None

    def jobs(self, pipeline: int) -> list[RemoteJob]:
        jobs = self._project.pipelines.get(pipeline, lazy=True).jobs
        listed = self._asked(
            f"the jobs of pipeline {pipeline}", lambda: [*islice(jobs.list(iterator=True, per_page=100), MOST_JOBS)]
        )
        return [self._job(one) for one in listed]

    def pipeline(self, job: RemoteJob) -> RemotePipeline:
        project = self._asked("the project", lambda: self._gitlab.projects.get(self.address.project))
        about = checked(GitLabProject, project.attributes, "the project")
        got = self._asked(f"pipeline {job.pipeline}", lambda: self._project.pipelines.get(job.pipeline))
        found = checked(GitLabPipeline, got.attributes, f"pipeline {job.pipeline}")
        given, unread = self._variables(
            "the variables given to the pipeline", lambda: got.variables.list(iterator=True, per_page=100)
        )
        return RemotePipeline(
            source=found.source,
            default_branch=about.default_branch or "",
            variables={one.name: one.value for one in given if one.value is not None},
            unread=unread,
        )

    def variables(self, job: RemoteJob) -> tuple[Sequence[RemoteVariable], Sequence[str]]:
        parents = self.address.project.split("/")[:-1]
        groups = ["/".join(parents[: depth + 1]) for depth in range(len(parents))]
        found: list[RemoteVariable] = []
        unread: list[str] = []
        for group in groups:
            manager = self._gitlab.groups.get(group, lazy=True).variables
            listed, _ = self._variables(f"the variables of group {group}", lambda m=manager: m.list(iterator=True))  # type: ignore[misc]
            found += listed  # a user's own namespace is no group
        listed, missing = self._variables(
            "the variables of the project", lambda: self._project.variables.list(iterator=True, per_page=100)
        )
        return [*found, *listed], [*unread, *missing]

    def _variables(self, what: str, ask: Callable[[], Iterable[Any]]) -> tuple[list[RemoteVariable], list[str]]:
        try:
            listed = self._asked(what, lambda: [*islice(ask(), MOST_JOBS)])
        except ServerRefused:
            return [], [what]
        answers = [checked(GitLabVariable, one.attributes, what) for one in listed]
        return [
            RemoteVariable(
                name=one.key,
                value=None if one.hidden else one.value,
                masked=one.masked or one.hidden,
                protected=one.protected,
                file=one.variable_type == "file",
                expand=not one.raw,
                scope=one.environment_scope,
            )
            for one in answers
        ], []

    def is_protected(self, job: RemoteJob) -> bool:
        if job.is_tag:
            return False
        try:
            got = self._asked(f"branch {job.ref}", lambda: self._project.branches.get(job.ref))
        except ServerRefused:
            return False
        return checked(GitLabBranch, got.attributes, f"branch {job.ref}").protected

    def log(self, job: RemoteJob, file: BinaryIO) -> None:
        one = self._project.jobs.get(job.id, lazy=True)
        self._download(f"the log of job {job.id}", one.trace, file, LARGEST_LOG)

    def artifacts(self, job: RemoteJob | RemoteArtifact, file: BinaryIO) -> None:
        one = self._project.jobs.get(job.id, lazy=True)
        self._download(f"the artifacts of {job.name}", one.artifacts, file, LARGEST_ARCHIVE)

    def _download(self, what: str, ask: Callable[..., Any], file: BinaryIO, most: int) -> None:
        pieces = self._asked(what, lambda: ask(iterator=True, chunk_size=1 << 18))
        with self._errors(what):
            write_bounded(pieces, file, most, what)

    def _job(self, answer: Any) -> RemoteJob:
        found = checked(GitLabJob, answer.attributes, "a job")
        expires = found.artifacts_expire_at
        return RemoteJob(
            id=found.id,
            name=found.name,
            status=found.status,
            url=found.web_url or f"{self.address.server}/{self.address.project}/-/jobs/{found.id}",
            sha=found.commit.id,
            ref=found.ref,
            is_tag=found.tag,
            pipeline=found.pipeline.id,
            tags=found.tag_list,
            size=next((_SIZES[size[1]] for tag in found.tag_list if (size := _HOSTED.match(tag))), ""),
            has_artifacts=found.artifacts_file is not None,
            expired=bool(expires) and _past(expires or ""),
            allow_failure=found.allow_failure,
        )

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        host = self.address.host
        try:
            yield
        except GitlabError as error:
            code = error.response_code or 0
            if isinstance(error, GitlabAuthenticationError) or code in (401, 403, 404):
                raise self._refused(what, code, tokens.where(self.address)) from None
            raise unavailable(f"{host}: {what}", code or error) from None
        except requests.HTTPError as error:
            raise unavailable(f"{host}: {what}", error.response.status_code, error.response.headers) from None
        except requests.RequestException as error:
            raise unanswered(f"{host}: {what}", error) from None


def _past(moment: str) -> bool:
    try:
        return datetime.fromisoformat(moment) < datetime.now(UTC)
    except (ValueError, TypeError):
        return False


server = GitLabServer
