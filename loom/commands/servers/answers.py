"""The answers of servers, as far as loom reads them: checked against these types, everything else ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from loom.commands.servers import Name, ServerUnavailable, Short
from loom.util import typed
from loom.values import Immutable

Answer = TypeVar("Answer")
Commit = Annotated[str, Meta(pattern=r"^[0-9a-f]{40,64}\Z")]


def checked(kind: type[Answer], data: object, what: str) -> Answer:
    """Return an answer as its type. ServerUnavailable for another one."""
    try:
        return typed.convert(data, kind)
    except msgspec.ValidationError as error:
        raise ServerUnavailable(f"{what}: the server's answer is not as documented ({error})") from error


class AnsweredCommit(Immutable):
    id: Commit


class OfPipeline(Immutable):
    id: int


class GitLabJob(Immutable):
    id: int
    name: Short
    status: str
    ref: Short
    tag: bool = False
    web_url: str = ""
    allow_failure: bool = False
    commit: AnsweredCommit
    pipeline: OfPipeline
    tag_list: list[str] = []
    artifacts_file: Mapping[str, Any] | None = None
    artifacts_expire_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None


class GitLabPipeline(Immutable):
    id: int
    source: str = "push"


class StartedPipeline(Immutable):
    id: int
    project_id: int | None = None
    web_url: str = ""


class GitLabBridge(Immutable):
    """A job that starts another pipeline."""

    name: Short
    status: str
    downstream_pipeline: StartedPipeline | None = None


class GitLabMergeRequest(Immutable):
    id: int
    title: str = ""
    source_branch: Short
    target_branch: Short
    labels: list[str] = []


class GitLabVariable(Immutable):
    key: Name
    value: str | None = None
    variable_type: str = "env_var"
    masked: bool = False
    protected: bool = False
    hidden: bool = False
    raw: bool = False
    environment_scope: str = "*"


class GitLabRef(Immutable):
    """A branch or a tag."""

    protected: bool | None = None


class GitLabNamespace(Immutable):
    kind: str = "group"


class GitLabProject(Immutable):
    id: int
    default_branch: str | None = None
    ci_config_path: str | None = None
    ci_default_git_depth: int | None = 20
    namespace: GitLabNamespace = GitLabNamespace()

    @property
    def is_in_group(self) -> bool:
        """Return whether the project is a group's, not a user's own."""
        return self.namespace.kind == "group"


class GitHubJob(Immutable):
    id: int
    run_id: int
    name: Short
    status: str
    conclusion: str | None = None
    html_url: str | None = None
    head_sha: Commit
    head_branch: str | None = None
    labels: list[str] = []
    started_at: str | None = None
    completed_at: str | None = None
    run_attempt: int | None = None


class GitHubEnd(Immutable):
    """One side of a pull request."""

    ref: Short


class GitHubPullRequest(Immutable):
    number: int
    base: GitHubEnd
    head: GitHubEnd


class GitHubRepository(Immutable):
    default_branch: str | None = None


class GitHubRun(Immutable):
    event: str = "push"
    path: str = ""
    head_branch: str | None = None
    repository: GitHubRepository | None = None
    pull_requests: list[dict[str, Any]] | None = None
