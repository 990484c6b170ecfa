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


class GitLabPipeline(ServerAnswer):
    id: int
    source: str = "push"


class GitLabVariable(ServerAnswer):
    key: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,254}$")
    value: str | None = None
    variable_type: str = "env_var"
    masked: bool = False
    protected: bool = False
    hidden: bool = False
    raw: bool = False
    environment_scope: str = "*"


class GitLabBranch(ServerAnswer):
    protected: bool = False


class GitLabProject(ServerAnswer):
    id: int
    default_branch: str | None = None


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
