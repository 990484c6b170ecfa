"""The variables that loom sets for a job: `LOOM_*`, and the `CI_*` names that scripts of other CI systems read.

Pure. The plan expands `$NAME` with `for_run`; a job gets `for_job` below the plan's own variables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from types import MappingProxyType
from typing import Literal

from msgspec import Struct

from loom.errors import RequestError
from loom.plan.model import Job

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
    Predefined("CI_PIPELINE_ID", "plan", "The run's id."),
    Predefined(
        "CI_PIPELINE_SOURCE", "plan", "What the run stands for, in GitLab's words: `push`, or that of `--event`."
    ),
    Predefined("CI_COMMIT_SHA", "plan", "The commit that is checked out."),
    Predefined("CI_COMMIT_SHORT_SHA", "plan", "Its first 8 characters."),
    Predefined("CI_COMMIT_REF_NAME", "plan", "The branch; without one a tag of the commit, else the commit."),
    Predefined(
        "CI_COMMIT_REF_SLUG", "plan", "The same in lower case, with `-` for all but letters and digits; 63 characters."
    ),
    Predefined("CI_COMMIT_BRANCH", "plan", "The branch; not set on a detached HEAD, for a tag or a merge request."),
    Predefined("CI_COMMIT_TAG", "plan", "A tag of the commit, on a detached HEAD or with `--event tag`; else not set."),
    Predefined("CI_COMMIT_TITLE", "plan", "The first line of the commit's message."),
    Predefined("CI_COMMIT_DESCRIPTION", "plan", "The message without its first line."),
    Predefined("CI_COMMIT_MESSAGE", "plan", "The whole message."),
    Predefined("CI_COMMIT_AUTHOR", "plan", "The commit's author: `Name <address>`."),
    Predefined("CI_COMMIT_TIMESTAMP", "plan", "When it was committed, in ISO 8601."),
    Predefined(
        "CI_DEFAULT_BRANCH", "plan", "The branch that `origin/HEAD` leads to; not set where git does not know it."
    ),
    Predefined("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "plan", "With `--event merge_request`: the branch."),
    Predefined("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "plan", "With `--event merge_request`: the default branch."),
    Predefined("CI_PROJECT_NAME", "plan", "The name of the repository's folder."),
    Predefined("CI_REPOSITORY_URL", "plan", "The URL of `origin`, without a password; not set without one."),
    Predefined("CI_PROJECT_DIR", "job", "Where the job sees the project: `/workspace` in a container."),
    Predefined("CI_JOB_ID", "job", "The job's id: its name, with the values of its matrix."),
    Predefined("CI_JOB_NAME", "job", "The job's name in the workflow."),
    Predefined("CI_JOB_STAGE", "job", "The job's stage."),
    Predefined("CI_JOB_IMAGE", "job", "The image that the job runs in; empty on the host."),
    Predefined("CI_NODE_INDEX", "job", "With `parallel`: which copy this is, from 1."),
    Predefined("CI_NODE_TOTAL", "job", "With `parallel`: how many copies there are."),
    Predefined(
        "CI_JOB_STATUS", "after_script", "How the job ended: `success`, `failure`, `timed_out`, `error`, `canceled`."
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
    Predefined("LOOM_JOB_STATUS", "after_script", "As `CI_JOB_STATUS`."),
)
"""All variables; the reference page and `check` use this table."""
KNOWN_TO_PLANS = tuple(each.name for each in PREDEFINED if each.known in ("plan", "job"))


class Message(Struct, frozen=True, kw_only=True):
    """The metadata of a commit."""

    author: str
    timestamp: str
    text: str


class Commit(Struct, frozen=True, kw_only=True):
    """The checked-out commit, as far as git knows it."""

    sha: str
    branch: str | None = None
    tags: Sequence[str] = ()
    default_branch: str | None = None
    message: Message | None = None


def for_run(
    *,
    run_id: str,
    workflow_path: str,
    commit: Commit,
    project_name: str,
    origin_url: str | None,
    event: str = DEFAULT_EVENT,
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
    of_tag = tag if event == "tag" or commit.branch is None else None
    ref = of_tag or commit.branch or commit.sha
    message = commit.message or Message(author="", timestamp="", text="")
    title, _, description = message.text.partition("\n")
    variables = {
        "CI": "true",
        "LOOM_CI": "true",
        "LOOM_EVENT": event,
        "LOOM_RUN_ID": run_id,
        "LOOM_PIPELINE_ID": run_id,
        "LOOM_WORKFLOW_PATH": workflow_path,
        "CI_PIPELINE_ID": run_id,
        "CI_PIPELINE_SOURCE": SOURCES[event],
        "CI_COMMIT_SHA": commit.sha,
        "CI_COMMIT_SHORT_SHA": commit.sha[:8],
        "CI_PROJECT_NAME": project_name,
        "CI_COMMIT_REF_NAME": ref,
        "CI_COMMIT_REF_SLUG": re.sub(r"[^a-z0-9]", "-", ref.lower())[:63].strip("-"),
    }
    sometimes = {
        "CI_COMMIT_TITLE": title,
        "CI_COMMIT_DESCRIPTION": description.strip("\n"),
        "CI_COMMIT_MESSAGE": message.text,
        "CI_COMMIT_AUTHOR": message.author,
        "CI_COMMIT_TIMESTAMP": message.timestamp,
        "CI_DEFAULT_BRANCH": commit.default_branch,
        "CI_COMMIT_TAG": of_tag,
        "CI_REPOSITORY_URL": origin_url,
    }
    if event == "merge_request":
        sometimes["CI_MERGE_REQUEST_SOURCE_BRANCH_NAME"] = commit.branch
        sometimes["CI_MERGE_REQUEST_TARGET_BRANCH_NAME"] = commit.default_branch
    elif of_tag is None:
        sometimes["CI_COMMIT_BRANCH"] = commit.branch
    return variables | {name: value for name, value in sometimes.items() if value}


def for_job(job: Job, *, project_dir: str, image_name: str) -> dict[str, str]:
    return {
        "LOOM_JOB_NAME": job.name,
        "LOOM_JOB_ID": job.id,
        "LOOM_JOB_STAGE": job.stage,
        "LOOM_JOB_TARGET": job.target,
        "LOOM_JOB_IMAGE": image_name,
        "LOOM_PROVIDER": job.provider.partition(":")[0],
        "LOOM_PROJECT_DIR": project_dir,
        "CI_PROJECT_DIR": project_dir,
        "CI_JOB_NAME": job.name,
        "CI_JOB_ID": job.id,
        "CI_JOB_STAGE": job.stage,
        "CI_JOB_IMAGE": image_name,
    }


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


def project_name_of(root: PurePath) -> str:
    return root.name or "project"
