"""The variables that loom sets for a job: `LOOM_*`, and the `CI_*` names that scripts of other CI systems read.

Pure. The plan expands `$NAME` with `for_run`; a job gets `for_job` below the plan's own variables.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import PurePath
from types import MappingProxyType
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from loom.errors import RequestError
from loom.plan.model import Image, Job
from loom.plan.origin import origin_of, variables_of
from loom.status import Status
from loom.util.slugs import slug

_SERVICE = re.compile(r"\$(?:(LOOM_SERVICE_[A-Za-z0-9_]+)|\{(LOOM_SERVICE_[A-Za-z0-9_]+)\})")
_PROJECT_DIR = re.compile(r"\$(?:(?:CI|LOOM)_PROJECT_DIR(?![A-Za-z0-9_])|\{(?:CI|LOOM)_PROJECT_DIR\})")

SOURCES = {
    "push": "push",
    "merge_request": "merge_request_event",
    "schedule": "schedule",
    "tag": "push",
    "web": "web",
    "trigger": "trigger",
}
"""The events that a run can simulate (`--event`), with GitLab's `CI_PIPELINE_SOURCE` for each."""
DEFAULT_EVENT = "push"

Known = Literal["plan", "job", "step", "after_script"]


class Predefined(Struct, frozen=True):
    """One of loom's variables: its name, the phase that first knows it, and its meaning (docs/reference/variables.md)."""

    name: str
    known: Known
    about: str


PREDEFINED = (
    Predefined("CI", "plan", "`true`."),
    Predefined("CI_CONFIG_PATH", "plan", "The workflow file, relative to the project."),
    Predefined("CI_PIPELINE_ID", "plan", "The run's id."),
    Predefined("CI_PIPELINE_IID", "plan", "The run's id."),
    Predefined("CI_PIPELINE_CREATED_AT", "plan", "When the run began, in ISO 8601; not set before (`loom compile`)."),
    Predefined("CI_PIPELINE_URL", "plan", "The address that a pipeline of this id would have in GitLab."),
    Predefined("CI_PIPELINE_TRIGGERED", "plan", "With `--event trigger`: `true`."),
    Predefined(
        "CI_PIPELINE_SOURCE", "plan", "What the run stands for, in GitLab's words: `push`, or that of `--event`."
    ),
    Predefined("CI_COMMIT_SHA", "plan", "The commit that is checked out."),
    Predefined("CI_COMMIT_SHORT_SHA", "plan", "Its first 8 characters."),
    Predefined(
        "CI_COMMIT_BEFORE_SHA",
        "plan",
        "For a push: the commit of the branch at `origin`, or the parent if that is the same; zeros for a branch that "
        "`origin` does not have, and for all other events.",
    ),
    Predefined("CI_COMMIT_REF_NAME", "plan", "The branch; without one a tag of the commit, else the commit."),
    Predefined(
        "CI_COMMIT_REF_SLUG", "plan", "The same in lower case, with `-` for all but letters and digits; 63 characters."
    ),
    Predefined("CI_COMMIT_REF_PROTECTED", "plan", "`true` for the default branch, else `false`."),
    Predefined("CI_COMMIT_BRANCH", "plan", "The branch; not set on a detached HEAD, for a tag or a merge request."),
    Predefined("CI_COMMIT_TAG", "plan", "A tag of the commit, on a detached HEAD or with `--event tag`; else not set."),
    Predefined("CI_COMMIT_TITLE", "plan", "The first line of the commit's message."),
    Predefined(
        "CI_COMMIT_DESCRIPTION",
        "plan",
        "The message without its first line, maybe empty; all of it after a line of 100 characters.",
    ),
    Predefined("CI_COMMIT_MESSAGE", "plan", "The whole message."),
    Predefined("CI_COMMIT_AUTHOR", "plan", "The commit's author: `Name <address>`."),
    Predefined("CI_COMMIT_TIMESTAMP", "plan", "When it was committed, in ISO 8601."),
    Predefined(
        "CI_DEFAULT_BRANCH",
        "plan",
        "The branch that `origin/HEAD` leads to; else `main` or `master`, if only one is there.",
    ),
    Predefined("CI_MERGE_REQUEST_ID", "plan", "With `--event merge_request`: `1`; git does not know the real one."),
    Predefined("CI_MERGE_REQUEST_IID", "plan", "With `--event merge_request`: `1`."),
    Predefined("CI_MERGE_REQUEST_EVENT_TYPE", "plan", "With `--event merge_request`: `detached`."),
    Predefined("CI_MERGE_REQUEST_REF_PATH", "plan", "With `--event merge_request`: `refs/merge-requests/1/head`."),
    Predefined(
        "CI_MERGE_REQUEST_TITLE", "plan", "With `--event merge_request`: the first line of the commit's message."
    ),
    Predefined("CI_MERGE_REQUEST_PROJECT_PATH", "plan", "With `--event merge_request`: as `CI_PROJECT_PATH`."),
    Predefined("CI_MERGE_REQUEST_PROJECT_URL", "plan", "With `--event merge_request`: as `CI_PROJECT_URL`."),
    Predefined("CI_MERGE_REQUEST_SOURCE_PROJECT_PATH", "plan", "With `--event merge_request`: as `CI_PROJECT_PATH`."),
    Predefined("CI_MERGE_REQUEST_SOURCE_PROJECT_URL", "plan", "With `--event merge_request`: as `CI_PROJECT_URL`."),
    Predefined("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "plan", "With `--event merge_request`: the branch."),
    Predefined("CI_MERGE_REQUEST_SOURCE_BRANCH_PROTECTED", "plan", "With `--event merge_request`: `false`."),
    Predefined("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "plan", "With `--event merge_request`: the default branch."),
    Predefined("CI_MERGE_REQUEST_TARGET_BRANCH_PROTECTED", "plan", "With `--event merge_request`: `true`."),
    Predefined(
        "CI_PROJECT_NAME", "plan", "The last part of the path in the URL of `origin`; without one, the folder's name."
    ),
    Predefined("CI_PROJECT_TITLE", "plan", "The same."),
    Predefined(
        "CI_PROJECT_PATH", "plan", "The path in the URL of `origin`: groups and name. Not set without a server there."
    ),
    Predefined("CI_PROJECT_PATH_SLUG", "plan", "The same as a slug (`CI_COMMIT_REF_SLUG`)."),
    Predefined("CI_PROJECT_NAMESPACE", "plan", "The groups in that path."),
    Predefined("CI_PROJECT_NAMESPACE_SLUG", "plan", "The same as a slug."),
    Predefined("CI_PROJECT_ROOT_NAMESPACE", "plan", "The first group."),
    Predefined("CI_PROJECT_URL", "plan", "The address of the project on the server of `origin`."),
    Predefined("CI_REPOSITORY_URL", "plan", "The URL of `origin`, without a password; not set without one."),
    Predefined("CI_SERVER", "plan", "`yes`."),
    Predefined("CI_SERVER_NAME", "plan", "`GitLab`."),
    Predefined("CI_SERVER_HOST", "plan", "The server in the URL of `origin`."),
    Predefined("CI_SERVER_PORT", "plan", "Its port for HTTP: from the URL, else `443`."),
    Predefined("CI_SERVER_PROTOCOL", "plan", "`https`, unless the URL of `origin` says `http`."),
    Predefined("CI_SERVER_FQDN", "plan", "The server, with its port if that is not the usual one."),
    Predefined("CI_SERVER_URL", "plan", "Its address."),
    Predefined("CI_SERVER_SHELL_SSH_HOST", "plan", "The server in the URL of `origin`."),
    Predefined("CI_SERVER_SHELL_SSH_PORT", "plan", "Its port for SSH: from the URL, else `22`."),
    Predefined("CI_API_V4_URL", "plan", "The address of its REST API."),
    Predefined("CI_API_GRAPHQL_URL", "plan", "The address of its GraphQL API."),
    Predefined("CI_REGISTRY", "plan", "`registry.gitlab.com` for a project of gitlab.com; else not set."),
    Predefined("CI_REGISTRY_IMAGE", "plan", "The project's place there."),
    Predefined("CI_TEMPLATE_REGISTRY_HOST", "plan", "`registry.gitlab.com`."),
    Predefined("CI_PAGES_DOMAIN", "plan", "`gitlab.io` for a project of gitlab.com; else not set."),
    Predefined("CI_PAGES_URL", "plan", "The project's place there."),
    Predefined("CI_DEPENDENCY_PROXY_SERVER", "plan", "The server with its port."),
    Predefined("CI_DEPENDENCY_PROXY_GROUP_IMAGE_PREFIX", "plan", "The first group's dependency proxy there."),
    Predefined("CI_DEPENDENCY_PROXY_DIRECT_GROUP_IMAGE_PREFIX", "plan", "The last group's dependency proxy there."),
    Predefined("GITLAB_USER_NAME", "plan", "git's `user.name`; not set without one."),
    Predefined("GITLAB_USER_EMAIL", "plan", "git's `user.email`; not set without one."),
    Predefined("GITLAB_USER_LOGIN", "plan", "What stands before the `@` there."),
    Predefined("CI_PROJECT_DIR", "job", "Where the job sees the project: `/workspace` in a container."),
    Predefined("CI_BUILDS_DIR", "job", "The directory that has the project's."),
    Predefined("CI_JOB_ID", "job", "The job's id: its name, with the values of its matrix."),
    Predefined(
        "CI_JOB_NAME", "job", "The job's name in the workflow; in GitLab's dialect as GitLab prints it: `test 1/3`."
    ),
    Predefined("CI_JOB_NAME_SLUG", "job", "The same as a slug."),
    Predefined("CI_JOB_STAGE", "job", "The job's stage."),
    Predefined("CI_JOB_IMAGE", "job", "The image that the job runs in; empty on the host."),
    Predefined("CI_JOB_TIMEOUT", "job", "The job's time limit in seconds; not set without one."),
    Predefined("CI_CONCURRENT_ID", "job", "`0`."),
    Predefined("CI_CONCURRENT_PROJECT_ID", "job", "`0`."),
    Predefined("CI_DISPOSABLE_ENVIRONMENT", "job", "`true` in a container."),
    Predefined("CI_SHARED_ENVIRONMENT", "job", "`true` on this machine."),
    Predefined("CI_NODE_INDEX", "job", "With `parallel`: which copy this is, from 1."),
    Predefined("CI_NODE_TOTAL", "job", "With `parallel`: how many copies there are."),
    Predefined(
        "CI_JOB_STATUS",
        "job",
        "`running`; in `after_script` how the job ended, in GitLab's words: `success`, `failed`, `canceled`.",
    ),
    Predefined("LOOM_CI", "plan", "`true`: this is a run of loom's, whatever it stands for, and not the CI system."),
    Predefined("LOOM_EVENT", "plan", "The event that the run stands for, as `--event` names it."),
    Predefined("LOOM_RUN_ID", "plan", "The run's id."),
    Predefined("LOOM_PIPELINE_ID", "plan", "The run's id."),
    Predefined("LOOM_WORKFLOW_PATH", "plan", "The workflow file, relative to the project."),
    Predefined("LOOM_PROJECT_DIR", "job", "As `CI_PROJECT_DIR`."),
    Predefined("LOOM_JOB_ID", "job", "As `CI_JOB_ID`."),
    Predefined("LOOM_JOB_NAME", "job", "As `CI_JOB_NAME`."),
    Predefined("LOOM_JOB_STAGE", "job", "As `CI_JOB_STAGE`."),
    Predefined("LOOM_JOB_IMAGE", "job", "As `CI_JOB_IMAGE`."),
    Predefined("LOOM_JOB_TARGET", "job", "The job's `target`: `linux`."),
    Predefined("LOOM_PROVIDER", "job", "`docker`, `kubernetes`, or `host` for a job on this machine."),
    Predefined("LOOM_ENV", "step", "A file: a line `NAME=value` in it is a variable of the job's later steps."),
    Predefined("LOOM_MASK", "step", "A file: each line in it is a value that no later output of the run shows."),
    Predefined("LOOM_STEP", "step", "The step's id, such as `script/01`."),
    Predefined("LOOM_ATTEMPT", "step", "Which attempt at the job this is, from 1."),
    Predefined(
        "LOOM_JOB_STATUS", "after_script", "How the job ended: `success`, `failure`, `timed_out`, `error`, `canceled`."
    ),
)
"""All variables; the reference page and `check` use this table."""
KNOWN_TO_PLANS = tuple(each.name for each in PREDEFINED if each.known in ("plan", "job"))


class Message(Struct, frozen=True, kw_only=True):
    """The metadata of a commit."""

    author: str
    timestamp: str
    text: str
    parent: str = ""
    """The first parent; empty for a commit without one."""


class HeadCommit(Struct, frozen=True, kw_only=True):
    """The checked-out commit, as far as git knows it."""

    sha: str
    branch: str | None = None
    tags: Sequence[str] = ()
    default_branch: str | None = None
    remote_sha: str | None = None
    """The commit of the branch at `origin`: zeros if it is not there, None if there is no `origin`."""
    message: Message | None = None


class User(Struct, frozen=True, kw_only=True):
    """Who runs, as git knows the person."""

    name: str = ""
    email: str = ""


def for_run(
    *,
    run_id: str,
    workflow_path: str,
    commit: HeadCommit,
    project_name: str,
    origin_url: str | None,
    event: str = DEFAULT_EVENT,
    user: User | None = None,
) -> dict[str, str]:
    """Return the variables that all jobs of a run share, as CI would set them for `event`. RequestError if the tag is
    missing.

    `CI_COMMIT_BRANCH` is absent on a detached HEAD, for a tag and for a merge request, as in GitLab.
    """
    tag = commit.tags[0] if commit.tags else None
    if event == "tag" and tag is None:
        raise RequestError(
            "--event tag: no tag points at the commit that is checked out",
            hint="make one (`git tag NAME`), or check one out (`git checkout NAME`)",
        )
    of_tag = tag if event == "tag" or (commit.branch is None and event != "merge_request") else None
    origin, user = origin_of(origin_url), user or User()
    variables = {
        "CI": "true",
        "CI_SERVER": "yes",
        "CI_SERVER_NAME": "GitLab",
        "CI_TEMPLATE_REGISTRY_HOST": "registry.gitlab.com",
        "CI_CONFIG_PATH": workflow_path,
        "CI_PROJECT_NAME": project_name,
        "CI_PROJECT_TITLE": project_name,
        "CI_REPOSITORY_URL": origin_url,
        **({} if origin is None else variables_of(origin)),
        "GITLAB_USER_NAME": user.name,
        "GITLAB_USER_EMAIL": user.email,
        "GITLAB_USER_LOGIN": user.email.partition("@")[0],
        "LOOM_CI": "true",
        "LOOM_EVENT": event,
        "LOOM_RUN_ID": run_id,
        "LOOM_PIPELINE_ID": run_id,
        "LOOM_WORKFLOW_PATH": workflow_path,
    }
    variables |= _of_commit(commit, event, of_tag)
    url = variables.get("CI_PROJECT_URL")
    variables |= {
        "CI_PIPELINE_ID": run_id,
        "CI_PIPELINE_IID": run_id,
        "CI_PIPELINE_SOURCE": SOURCES[event],
        "CI_PIPELINE_URL": f"{url}/-/pipelines/{run_id}" if url and run_id else None,
        "CI_PIPELINE_CREATED_AT": _began(run_id),
        "CI_PIPELINE_TRIGGERED": "true" if event == "trigger" else None,
    }
    if event == "merge_request":
        variables |= _of_merge_request(commit, variables)
    elif of_tag is None:
        variables["CI_COMMIT_BRANCH"] = commit.branch
    return {name: value for name, value in variables.items() if value or (value is not None and name in _ALWAYS)}


_ALWAYS = frozenset(
    {"CI_PIPELINE_ID", "CI_PIPELINE_IID", "LOOM_RUN_ID", "LOOM_PIPELINE_ID", "CI_COMMIT_SHA", "CI_COMMIT_DESCRIPTION"}
)
"""Set also where they are empty: a plan without a run has no id, most commits have no description."""


def _began(run_id: str) -> str | None:
    """When a run began: its id is a number of nanoseconds."""
    if not run_id.isdigit():
        return None
    return datetime.fromtimestamp(int(run_id) // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _of_commit(commit: HeadCommit, event: str, tag: str | None) -> dict[str, str | None]:
    ref = tag or commit.branch or commit.sha
    message = commit.message or Message(author="", timestamp="", text="")
    title, _, rest = message.text.partition("\n")
    before = None
    if event == "push" and tag is None:
        before = message.parent if commit.remote_sha in (commit.sha, None) else commit.remote_sha
    return {
        "CI_COMMIT_SHA": commit.sha,
        "CI_COMMIT_SHORT_SHA": commit.sha[:8],
        "CI_COMMIT_BEFORE_SHA": before or "0" * (len(commit.sha) or 40),
        "CI_COMMIT_REF_NAME": ref,
        "CI_COMMIT_REF_SLUG": slug(ref),
        "CI_COMMIT_REF_PROTECTED": "true" if tag is None and ref == commit.default_branch else "false",
        "CI_COMMIT_TITLE": title,
        "CI_COMMIT_DESCRIPTION": rest.strip("\n") if len(title) < 100 else message.text,
        "CI_COMMIT_MESSAGE": message.text,
        "CI_COMMIT_AUTHOR": message.author,
        "CI_COMMIT_TIMESTAMP": message.timestamp,
        "CI_COMMIT_TAG": tag,
        "CI_DEFAULT_BRANCH": commit.default_branch,
    }


def _of_merge_request(commit: HeadCommit, variables: Mapping[str, str | None]) -> dict[str, str | None]:
    path, url = variables.get("CI_PROJECT_PATH"), variables.get("CI_PROJECT_URL")
    return {
        "CI_MERGE_REQUEST_ID": "1",
        "CI_MERGE_REQUEST_IID": "1",
        "CI_MERGE_REQUEST_EVENT_TYPE": "detached",
        "CI_MERGE_REQUEST_REF_PATH": "refs/merge-requests/1/head",
        "CI_MERGE_REQUEST_TITLE": variables["CI_COMMIT_TITLE"],
        "CI_MERGE_REQUEST_PROJECT_PATH": path,
        "CI_MERGE_REQUEST_PROJECT_URL": url,
        "CI_MERGE_REQUEST_SOURCE_PROJECT_PATH": path,
        "CI_MERGE_REQUEST_SOURCE_PROJECT_URL": url,
        "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": commit.branch,
        "CI_MERGE_REQUEST_SOURCE_BRANCH_PROTECTED": "false",
        "CI_MERGE_REQUEST_TARGET_BRANCH_NAME": commit.default_branch,
        "CI_MERGE_REQUEST_TARGET_BRANCH_PROTECTED": "true",
    }


def for_job(job: Job, *, project_dir: str, image_name: str) -> dict[str, str]:
    sometimes = {
        "CI_JOB_TIMEOUT": None if job.timeout_s is None else str(round(job.timeout_s)),
        "CI_SHARED_ENVIRONMENT" if job.image is None else "CI_DISPOSABLE_ENVIRONMENT": "true",
    }
    return {
        "LOOM_JOB_NAME": job.name,
        "LOOM_JOB_ID": job.id,
        "LOOM_JOB_STAGE": job.stage,
        "LOOM_JOB_TARGET": job.target,
        "LOOM_JOB_IMAGE": image_name,
        "LOOM_PROVIDER": job.provider.partition(":")[0],
        "LOOM_PROJECT_DIR": project_dir,
        "CI_PROJECT_DIR": project_dir,
        "CI_BUILDS_DIR": project_dir.rstrip("/").rpartition("/")[0] or "/",
        "CI_CONCURRENT_ID": "0",
        "CI_CONCURRENT_PROJECT_ID": "0",
        "CI_JOB_NAME": job.name,
        "CI_JOB_NAME_SLUG": slug(job.name),
        "CI_JOB_ID": job.id,
        "CI_JOB_STAGE": job.stage,
        "CI_JOB_STATUS": "running",
        "CI_JOB_IMAGE": image_name,
        **{name: value for name, value in sometimes.items() if value is not None},
    }


def of_status(status: Status) -> dict[str, str]:
    """Return the variables that tell `after_script` how the job ended."""
    ended = status.value if status in (Status.SUCCESS, Status.CANCELED) else "failed"
    return {"LOOM_JOB_STATUS": status.value, "CI_JOB_STATUS": ended}


def job_environment(
    job: Job,
    run: Mapping[str, str],
    *,
    project_dir: str,
    image_name: str,
    services: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """Merge loom's variables and the plan's; later ones win. `services` locate the job's services.

    The plan knows neither the directory of host jobs nor service addresses, so its values may still refer to both.
    """
    variables = dict(job.variables)
    if job.image is None:
        variables = {name: _PROJECT_DIR.sub(lambda _: project_dir, value) for name, value in variables.items()}
    if services:
        variables = {
            name: _SERVICE.sub(lambda found: services.get(found[1] or found[2], found[0]), value)
            for name, value in variables.items()
        }
    own = for_job(job, project_dir=project_dir, image_name=image_name)
    return {**run, **own, **services, **variables}


def default_branch(remote_head: str, refs: Collection[str]) -> str | None:
    """Return the branch that `origin/HEAD` leads to (a ref's name, or empty); else `main` or `master`, if one is there."""
    if remote_head:
        return remote_head.removeprefix("refs/remotes/origin/")
    usual = [name for name in ("main", "master") if {f"refs/remotes/origin/{name}", f"refs/heads/{name}"} & set(refs)]
    return usual[0] if len(usual) == 1 else None


def remote_sha(sha: str | None, origin_url: str | None) -> str | None:
    """Return the commit of a branch at `origin`: zeros, as git says it, for a branch that is not there."""
    return sha or ("0" * 40 if origin_url else None)


_REFERENCE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")


def with_reported(job: Job, reported: Mapping[str, str]) -> Job:
    """Return the job with variables that jobs before it reported: above its own, below the user's.

    What the plan left unexpanded in its other values, because only those jobs could know it, is expanded.
    """
    found = {name: value for name, value in reported.items() if name not in job.given_variables}

    def expanded(text: str) -> str:
        return _REFERENCE.sub(lambda match: found.get(match[1] or match[2], match[0]), text)

    def image(one: Image) -> Image:
        return one if one.name is None else replace(one, name=expanded(one.name))

    artifacts = job.artifacts
    if artifacts is not None:
        artifacts = replace(artifacts, paths=tuple(expanded(path) for path in artifacts.paths))
    return replace(
        job,
        variables={**{name: expanded(value) for name, value in job.variables.items()}, **found},
        image=None if job.image is None else image(job.image),
        services=tuple(replace(service, image=image(service.image)) for service in job.services),
        artifacts=artifacts,
        cache=tuple(
            replace(cache, key=expanded(cache.key)) if isinstance(cache.key, str) else cache for cache in job.cache
        ),
    )


def files_of(job: Job, secrets: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the content of the files that the job's place gets: secrets, and variables of type file."""
    as_file = {secret.name for secret in job.secrets if secret.file}
    given = {name: job.variables[name] for name in job.file_variables if name in job.variables}
    return {
        **{name: value.encode("utf-8", "surrogateescape") for name, value in given.items()},
        **{name: value for name, value in secrets.items() if name in as_file},
    }


def placed(job: Job, secrets: Mapping[str, bytes], paths: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of files and secrets: a file's path, or the value of a secret with `file: false`; and the
    job's variables that refer to them, which only its place can expand.
    """
    own = {**{name: value.decode(errors="surrogateescape") for name, value in secrets.items()}, **paths}

    def expanded(text: str) -> str:
        return _REFERENCE.sub(lambda match: own.get(match[1] or match[2], match[0]), text)

    given = {name: expanded(value) for name, value in job.variables.items()} if own else {}
    return {**{name: value for name, value in given.items() if value != job.variables[name]}, **own}


def project_name_of(root: PurePath) -> str:
    return root.name or "project"
