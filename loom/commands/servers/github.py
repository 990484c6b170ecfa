"""GitHub, by its REST API."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, BinaryIO

from loom.commands.servers import (
    JobAddress,
    RemoteArtifact,
    RemoteJob,
    RemotePipeline,
    RemoteVariable,
    Server,
    ServerRefused,
    tokens,
)
from loom.commands.servers.answers import GitHubJob, GitHubPullRequest, GitHubRun, OfPipeline, checked
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
        api = "https://api.github.com" if address.host == "github.com" else f"{address.server}/api/v3"
        self._web = Web(f"{api}/repos/{address.project}", token, advice=tokens.advice(address))

    def _one(self, number: int) -> RemoteJob:
        return self._job(self._web.get(f"job {number}", f"actions/jobs/{number}"))

    def _newest_failed(self, ref: str) -> int | None:
        what, which = f"the runs of {ref}", {"branch": ref, "status": "failure"}
        runs = self._web.listed(what, "actions/runs", "workflow_runs", most=1, **which)
        return checked(OfPipeline, runs[0], what).id if runs else None

    def jobs(self, pipeline: int, attempt: int | None = None) -> list[RemoteJob]:
        of_attempt = f"/attempts/{attempt}" if attempt is not None else ""
        path = f"actions/runs/{pipeline}{of_attempt}/jobs"
        return [self._job(one) for one in self._web.listed(f"the jobs of run {pipeline}", path, "jobs")]

    def check_commit(self, sha: str) -> None:
        self._web.get(f"commit {sha[:12]}", f"git/commits/{sha}")

    def sign_off(self, sha: str, name: str, description: str) -> None:
        status = {"state": "success", "description": description, "context": name}
        self._web.post(f"a status of commit {sha[:12]}", f"statuses/{sha}", status)

    def jobs_before(self, job: RemoteJob) -> list[RemoteJob]:
        return self.jobs(job.pipeline, job.attempt)

    def pipeline(self, job: RemoteJob) -> RemotePipeline:
        what = f"run {job.pipeline}"
        run = checked(GitHubRun, self._web.get(what, f"actions/runs/{job.pipeline}"), what)
        workflow, payload = run.path.partition("@")[0], self._payload(run)
        return RemotePipeline(
            source=run.event,
            default_branch=(run.repository and run.repository.default_branch) or "",
            workflow=workflow if _WORKFLOW.fullmatch(workflow) else "",
            payload=payload,
            branch=run.head_branch or "",
            unread=[
                "the inputs, which the API does not have"
                if payload is not None
                else "the inputs and the payload of the event, which the API does not have"
            ],
        )

    def _payload(self, run: GitHubRun) -> dict[str, Any] | None:
        """Return what the server gives of a pull request's event: the request as it is now."""
        if not run.event.startswith("pull_request") or not run.pull_requests:
            return None
        whole = run.pull_requests[0]
        short = checked(GitHubPullRequest, whole, "the pull request")
        with suppress(ServerRefused):
            whole = self._web.get(f"pull request {short.number}", f"pulls/{short.number}")
        checked(GitHubPullRequest, whole, "the pull request")
        return {"number": short.number, "pull_request": whole}

    def variables(self, job: RemoteJob) -> tuple[Sequence[RemoteVariable], Sequence[str]]:
        found: list[RemoteVariable] = []
        unread: list[str] = []
        for whose, path in (("organisation", "organization-variables"), ("repository", "variables")):
            what = f"the variables of the {whose}"
            try:
                listed = self._web.listed(what, f"actions/{path}", "variables")
            except ServerRefused:
                unread.append(what)
            else:
                found += [checked(RemoteVariable, one, what) for one in listed]
        return found, unread

    def log(self, job: RemoteJob, file: BinaryIO) -> None:
        self._web.download(f"the log of job {job.id}", f"actions/jobs/{job.id}/logs", file, LARGEST_LOG)

    def artifacts_before(self, job: RemoteJob) -> Sequence[RemoteArtifact]:
        what = f"the artifacts of run {job.pipeline}"
        listed = self._web.listed(what, f"actions/runs/{job.pipeline}/artifacts", "artifacts")
        found = [checked(RemoteArtifact, item, what) for item in listed]
        return [one for one in found if not job.started_at or one.created_at < job.started_at]

    def artifacts(self, job: RemoteJob | RemoteArtifact, file: BinaryIO) -> None:
        self._web.download(f"the artifact {job.name}", f"actions/artifacts/{job.id}/zip", file, LARGEST_ARCHIVE)

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


server = GitHubServer
