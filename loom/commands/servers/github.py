"""GitHub, by PyGithub."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, BinaryIO

import requests
from github import Github
from github.GithubException import GithubException
from github.PaginatedList import PaginatedList
from github.Requester import HTTPRequestsConnectionClass, HTTPSRequestsConnectionClass, Requester

from loom.commands.servers import (
    MOST_JOBS,
    JobAddress,
    RemoteArtifact,
    RemoteJob,
    RemotePipeline,
    RemoteVariable,
    Server,
    ServerRefused,
    tokens,
)
from loom.commands.servers.answers import GitHubArtifact, GitHubJob, GitHubPullRequest, GitHubVariable, checked
from loom.commands.servers.web import LARGEST_ARCHIVE, LARGEST_LOG, Web

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
        super().__init__(address)
        base = "https://api.github.com" if address.host == "github.com" else f"{address.server}/api/v3"
        odd = (GithubException, RuntimeError, KeyError, AssertionError)
        self._web = Web(base, token, advice=tokens.advice(address), odd=odd)
        kinds = (HTTPRequestsConnectionClass, HTTPSRequestsConnectionClass)
        Requester.injectConnectionClasses(*(_through(self._web.session, kind) for kind in kinds))
        # Without the token, which the session's door adds.
        github = Github(
            base_url=base, per_page=100, user_agent="loom", retry=None, lazy=True, seconds_between_requests=None
        )
        self._repository = github.get_repo(address.project)
        self._actions_url = f"{base}/repos/{address.project}/actions"

    def _listed(self, what: str, path: str, key: str, most: int = MOST_JOBS, **which: str) -> list[dict[str, Any]]:
        """Return the items of a list below the repository, as the server gives them."""
        repository = self._repository
        listed = PaginatedList(
            _Item,  # type: ignore[type-var]
            repository.requester,
            f"{repository.url}/actions/{path}",
            which,
            list_item=key,
        )
        return self._web.asked(what, lambda: [one.whole for one in islice(listed, most)])

    def _one(self, number: int) -> RemoteJob:
        return self._job(self._web.asked(f"job {number}", lambda: self._repository.get_workflow_job(number).raw_data))

    def _newest_failed(self, ref: str) -> int | None:
        runs = self._listed(f"the runs of {ref}", "runs", "workflow_runs", 1, branch=ref, status="failure")
        return int(runs[0]["id"]) if runs else None

    def jobs(self, pipeline: int, attempt: int | None = None) -> list[RemoteJob]:
        of_attempt = f"/attempts/{attempt}" if attempt is not None else ""
        return [
            self._job(one)
            for one in self._listed(f"the jobs of run {pipeline}", f"runs/{pipeline}{of_attempt}/jobs", "jobs")
        ]

    def check_commit(self, sha: str) -> None:
        self._web.asked(f"commit {sha[:12]}", lambda: self._repository.get_git_commit(sha).raw_data)

    def sign_off(self, sha: str, name: str, description: str) -> None:
        commit = self._repository.get_commit(sha)
        self._web.asked(
            f"a status of commit {sha[:12]}",
            lambda: commit.create_status("success", description=description, context=name),
        )

    def jobs_before(self, job: RemoteJob) -> list[RemoteJob]:
        return self.jobs(job.pipeline, job.attempt)

    def pipeline(self, job: RemoteJob) -> RemotePipeline:
        run = self._web.asked(f"run {job.pipeline}", lambda: self._repository.get_workflow_run(job.pipeline).raw_data)
        repository, workflow = run.get("repository") or {}, str(run.get("path", "")).partition("@")[0]
        payload = self._payload(run)
        return RemotePipeline(
            source=str(run.get("event", "push")),
            default_branch=str(repository.get("default_branch") or ""),
            workflow=workflow if _WORKFLOW.fullmatch(workflow) else "",
            payload=payload,
            branch=str(run.get("head_branch") or ""),
            unread=[
                "the inputs, which the API does not have"
                if payload is not None
                else "the inputs and the payload of the event, which the API does not have"
            ],
        )

    def _payload(self, run: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what the server gives of a pull request's event: the request as it is now."""
        requests = run.get("pull_requests") if str(run.get("event")).startswith("pull_request") else None
        if not isinstance(requests, list) or not requests:
            return None
        short = checked(GitHubPullRequest, requests[0], "the pull request")
        try:
            whole = self._web.asked(
                f"pull request {short.number}", lambda: self._repository.get_pull(short.number).raw_data
            )
        except ServerRefused:
            whole = requests[0]
        checked(GitHubPullRequest, whole, "the pull request")
        return {"number": short.number, "pull_request": whole}

    def variables(self, job: RemoteJob) -> tuple[Sequence[RemoteVariable], Sequence[str]]:
        found: list[RemoteVariable] = []
        unread: list[str] = []
        for whose, path in (("organisation", "organization-variables"), ("repository", "variables")):
            what = f"the variables of the {whose}"
            try:
                listed = [checked(GitHubVariable, one, what) for one in self._listed(what, path, "variables")]
            except ServerRefused:
                unread.append(what)
            else:
                found += [RemoteVariable(name=one.name, value=one.value) for one in listed]
        return found, unread

    def log(self, job: RemoteJob, file: BinaryIO) -> None:
        self._web.download(f"the log of job {job.id}", f"{self._actions_url}/jobs/{job.id}/logs", file, LARGEST_LOG)

    def artifacts_before(self, job: RemoteJob) -> Sequence[RemoteArtifact]:
        what = f"the artifacts of run {job.pipeline}"
        listed = self._listed(what, f"runs/{job.pipeline}/artifacts", "artifacts")
        return [
            RemoteArtifact(id=one.id, name=one.name, expired=one.expired)
            for one in (checked(GitHubArtifact, item, what) for item in listed)
            if not job.started_at or one.created_at < job.started_at
        ]

    def artifacts(self, job: RemoteJob | RemoteArtifact, file: BinaryIO) -> None:
        address = f"{self._actions_url}/artifacts/{job.id}/zip"
        self._web.download(f"the artifact {job.name}", address, file, LARGEST_ARCHIVE)

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
            finished_at=found.completed_at or "",
            attempt=found.run_attempt,
        )


class _Item:
    """An item of a list as the server gives it: PyGithub would ask once more for each one."""

    def __init__(self, _requester: Requester, _headers: Mapping[str, Any], whole: dict[str, Any]) -> None:
        self.whole = whole


def _through(session: requests.Session, kind: type[Any]) -> type[Any]:
    """Return PyGithub's kind of connection, with this session."""

    class Connection(kind):  # type: ignore[misc]
        def __init__(self, *given: Any, **more: Any) -> None:
            super().__init__(*given, **more)
            self.session = session

    return Connection


server = GitHubServer
