"""The answers of servers, as far as loom reads them: strict, frozen, everything else ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loom.commands.servers import ServerUnavailable

_SHORT = 4096


class ServerAnswer(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", str_max_length=1 << 20)


Model = TypeVar("Model", bound=ServerAnswer)


def checked(model: type[Model], data: Mapping[str, Any], what: str) -> Model:
    """Return an answer as its type. ServerUnavailable for another one."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        at = ".".join(map(str, first["loc"]))
        raise ServerUnavailable(f"{what}: the server's answer is not as documented ({at}: {first['msg']})") from error


class AnsweredCommit(ServerAnswer):
    id: str = Field(pattern=r"^[0-9a-f]{40,64}$")


class OfPipeline(ServerAnswer):
    id: int


class GitLabJob(ServerAnswer):
    id: int
    name: str = Field(max_length=_SHORT)
    status: str
    ref: str = Field(max_length=_SHORT)
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


class GitLabPipeline(ServerAnswer):
    id: int
    source: str = "push"


class StartedPipeline(ServerAnswer):
    id: int
    project_id: int | None = None
    web_url: str = ""


class GitLabBridge(ServerAnswer):
    """A job that starts another pipeline."""

    name: str = Field(max_length=_SHORT)
    status: str
    downstream_pipeline: StartedPipeline | None = None


class GitLabMergeRequest(ServerAnswer):
    id: int
    title: str = ""
    source_branch: str = Field(max_length=_SHORT)
    target_branch: str = Field(max_length=_SHORT)
    labels: list[str] = []


class GitLabVariable(ServerAnswer):
    key: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,254}$")
    value: str | None = None
    variable_type: str = "env_var"
    masked: bool = False
    protected: bool = False
    hidden: bool = False
    raw: bool = False
    environment_scope: str = "*"


class GitLabRef(ServerAnswer):
    """A branch or a tag."""

    protected: bool | None = None


class GitLabNamespace(ServerAnswer):
    kind: str = "group"


class GitLabProject(ServerAnswer):
    id: int
    default_branch: str | None = None
    ci_config_path: str | None = None
    ci_default_git_depth: int | None = 20
    namespace: GitLabNamespace = GitLabNamespace()

    @property
    def is_in_group(self) -> bool:
        """Return whether the project is a group's, not a user's own."""
        return self.namespace.kind == "group"


class GitHubJob(ServerAnswer):
    id: int
    run_id: int
    name: str = Field(max_length=_SHORT)
    status: str
    conclusion: str | None = None
    html_url: str | None = None
    head_sha: str = Field(pattern=r"^[0-9a-f]{40,64}$")
    head_branch: str | None = None
    labels: list[str] = []
    started_at: str | None = None
    completed_at: str | None = None
    run_attempt: int | None = None


class GitHubVariable(ServerAnswer):
    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,254}$")
    value: str


class GitHubArtifact(ServerAnswer):
    id: int
    name: str = Field(max_length=_SHORT)
    expired: bool = False
    created_at: str = ""


class GitHubEnd(ServerAnswer):
    """One side of a pull request."""

    ref: str = Field(max_length=_SHORT)


class GitHubPullRequest(ServerAnswer):
    number: int
    base: GitHubEnd
    head: GitHubEnd
