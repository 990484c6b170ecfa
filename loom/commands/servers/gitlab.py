"""GitLab, by its REST API."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, BinaryIO
from urllib.parse import quote

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
from loom.commands.servers.answers import (
    GitLabBridge,
    GitLabJob,
    GitLabMergeRequest,
    GitLabPipeline,
    GitLabProject,
    GitLabRef,
    GitLabVariable,
    checked,
)
from loom.commands.servers.web import LARGEST_ARCHIVE, LARGEST_LOG, Web

MOST_PIPELINES = 20
"""Those of one commit among which the one is searched that started another."""
MERGE_REQUEST = re.compile(r"refs/merge-requests/(?P<number>\d{1,18})/(?P<kind>head|merge|train)")
_EVENTS = {"head": "detached", "merge": "merged_result", "train": "merge_train"}
_OF_CHILD = "parent_pipeline"
_HOSTED = re.compile(r"saas-linux-(small|medium|large|xlarge|2xlarge)-(?:amd64|arm64)")
_SIZES = {
    "small": "2 CPUs, 8 GB",
    "medium": "4 CPUs, 16 GB",
    "large": "8 CPUs, 32 GB",
    "xlarge": "16 CPUs, 64 GB",
    "2xlarge": "32 CPUs, 128 GB",
}
"""The documented sizes of gitlab.com's runners."""


class GitLabServer(Server):
    """One project of a GitLab server."""

    def __init__(self, address: JobAddress, token: str | None) -> None:
        super().__init__(address)
        self._web = Web(f"{address.server}/api/v4", token, advice=tokens.advice(address))
        self._project = f"projects/{quote(address.project, safe='')}"

    def _one(self, number: int) -> RemoteJob:
        return self._job(self._web.get(f"job {number}", f"{self._project}/jobs/{number}"))

    def _newest_failed(self, ref: str) -> int | None:
        newest = self._pipelines(f"the pipelines of {ref}", most=1, ref=ref, status="failed")
        return newest[0] if newest else None

    def _pipelines(self, what: str, most: int, **which: str) -> list[int]:
        listed = self._web.listed(what, f"{self._project}/pipelines", most=most, **which)
        return [checked(GitLabPipeline, one, "a pipeline").id for one in listed]

    def jobs(self, pipeline: int, attempt: int | None = None) -> list[RemoteJob]:
        return self._jobs(pipeline)

    def _jobs(self, pipeline: int, **which: Any) -> list[RemoteJob]:
        what, path = f"the jobs of pipeline {pipeline}", f"{self._project}/pipelines/{pipeline}/jobs"
        return list(map(self._job, self._web.listed(what, path, **which)))

    def check_commit(self, sha: str) -> None:
        self._web.get(f"commit {sha[:12]}", f"{self._project}/repository/commits/{sha}")

    def sign_off(self, sha: str, name: str, description: str) -> None:
        status = {"state": "success", "name": name, "description": description}
        self._web.post(f"a status of commit {sha[:12]}", f"{self._project}/statuses/{sha}", status)

    def jobs_before(self, job: RemoteJob) -> list[RemoteJob]:
        found: dict[str, RemoteJob] = {}
        for one in sorted(self._jobs(job.pipeline, include_retried="true"), key=lambda one: one.id):
            if one.name not in found or _moment(one.finished_at) <= _moment(job.started_at):
                found[one.name] = one
        return list(found.values())

    def failed_below(self, pipeline: int) -> int | None:
        for one in self._bridges(pipeline):
            below = one.downstream_pipeline
            if one.status == "failed" and below is not None:
                if below.project_id not in (None, self._about.id):
                    raise ServerRefused(
                        f"the failed job of pipeline {pipeline} is in another project", hint=f"name it: {below.web_url}"
                    )
                return below.id
        return None

    def _bridges(self, pipeline: int) -> list[GitLabBridge]:
        what = f"the triggers of pipeline {pipeline}"
        listed = self._web.listed(what, f"{self._project}/pipelines/{pipeline}/bridges")
        return [checked(GitLabBridge, one, what) for one in listed]

    def _above(self, pipeline: int, sha: str) -> tuple[int, str] | None:
        """Return the pipeline that started a child, and its job that did: the API names them from above alone."""
        asked = self._pipelines("the pipelines of the commit", most=MOST_PIPELINES, sha=sha)
        for above in asked:
            for bridge in self._bridges(above):
                if (below := bridge.downstream_pipeline) is not None and below.id not in asked:
                    if below.id == pipeline:
                        return above, bridge.name
                    if len(asked) < MOST_PIPELINES and below.project_id in (None, self._about.id):
                        asked.append(below.id)
        return None

    @cached_property
    def _about(self) -> GitLabProject:
        return checked(GitLabProject, self._web.get("the project", self._project), "the project")

    def pipeline(self, job: RemoteJob) -> RemotePipeline:
        what, path = f"pipeline {job.pipeline}", f"{self._project}/pipelines/{job.pipeline}"
        found = checked(GitLabPipeline, self._web.get(what, path), what)
        given, unread = self._variables("the variables given to the pipeline", f"{path}/variables")
        request, unread_request = self._request(job)
        return RemotePipeline(
            source=found.source,
            default_branch=self._about.default_branch or "",
            workflow=self._about.ci_config_path or "",
            git_depth=self._about.ci_default_git_depth or 0,
            variables={one.name: one.value for one in given if one.value is not None},
            known=request,
            branch=request.get("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", ""),
            above=self._above(job.pipeline, job.sha) if found.source == _OF_CHILD else None,
            unread=[*unread, *unread_request],
        )

    def _request(self, job: RemoteJob) -> tuple[Mapping[str, str], Sequence[str]]:
        """Return the variables of the merge request that a job is of, and what of it can't be read."""
        if (ref := MERGE_REQUEST.fullmatch(job.ref)) is None:
            return {}, ()
        known = {
            "CI_MERGE_REQUEST_IID": ref["number"],
            "CI_MERGE_REQUEST_REF_PATH": job.ref,
            "CI_MERGE_REQUEST_EVENT_TYPE": _EVENTS[ref["kind"]],
        }
        what = f"merge request {ref['number']}"
        try:
            got = self._web.get(what, f"{self._project}/merge_requests/{ref['number']}")
        except ServerRefused:
            return known, [f"{what}: its branches and its title"]
        found = checked(GitLabMergeRequest, got, what)
        known |= {
            "CI_MERGE_REQUEST_ID": str(found.id),
            "CI_MERGE_REQUEST_TITLE": found.title,
            "CI_MERGE_REQUEST_LABELS": ",".join(found.labels),
            "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": found.source_branch,
            "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": found.target_branch,
        }
        return known, ()

    def variables(self, job: RemoteJob) -> tuple[Sequence[RemoteVariable], Sequence[str]]:
        parents = self.address.project.split("/")[:-1] if self._about.is_in_group else []
        lists = {
            f"the variables of group {group}": f"groups/{quote(group, safe='')}/variables"
            for group in ("/".join(parents[: depth + 1]) for depth in range(len(parents)))
        }
        lists["the variables of the project"] = f"{self._project}/variables"
        read = [self._variables(what, path) for what, path in lists.items()]
        return [one for found, _ in read for one in found], [what for _, unread in read for what in unread]

    def _variables(self, what: str, path: str) -> tuple[list[RemoteVariable], list[str]]:
        try:
            listed = self._web.listed(what, path)
        except ServerRefused:
            return [], [what]
        answers = [checked(GitLabVariable, one, what) for one in listed]
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

    def is_protected(self, job: RemoteJob) -> bool | None:
        path = f"{self._project}/repository/{'tags' if job.is_tag else 'branches'}/{quote(job.ref, safe='')}"
        try:
            got = self._web.get(job.ref, path)
        except ServerRefused:
            return None
        return checked(GitLabRef, got, job.ref).protected

    def log(self, job: RemoteJob, file: BinaryIO) -> None:
        self._web.download(f"the log of job {job.id}", f"{self._project}/jobs/{job.id}/trace", file, LARGEST_LOG)

    def artifacts(self, job: RemoteJob | RemoteArtifact, file: BinaryIO) -> None:
        path = f"{self._project}/jobs/{job.id}/artifacts"
        self._web.download(f"the artifacts of {job.name}", path, file, LARGEST_ARCHIVE)

    def _job(self, answer: Any) -> RemoteJob:
        found = checked(GitLabJob, answer, "a job")
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
            expired=_moment(found.artifacts_expire_at or "") < datetime.now(UTC),
            allow_failure=found.allow_failure,
            started_at=found.started_at or "",
            finished_at=found.finished_at or "",
        )


def _moment(text: str) -> datetime:
    """Return a moment of the API; the last one for none."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return datetime.max.replace(tzinfo=UTC)


server = GitLabServer
