"""The variables that loom itself gives a job: `LOOM_*`, and the `CI_*` names that other CI systems' scripts read.

Pure. The plan expands `$NAME` against `for_run`; a job sees `for_job` below the plan's own variables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from loom.plan import Job, ProviderName

_PROJECT_DIR = re.compile(r"\$(?:(?:CI|LOOM)_PROJECT_DIR(?![A-Za-z0-9_])|\{(?:CI|LOOM)_PROJECT_DIR\})")


def for_run(
    *,
    run_id: str,
    workflow_path: str,
    head_sha: str,
    branch: str | None,
    tags: Sequence[str],
    project_name: str,
    origin_url: str | None,
) -> dict[str, str]:
    """What is the same for every job of a run. `CI_COMMIT_BRANCH` is absent on a detached HEAD, as in GitLab."""
    variables = {
        "CI": "true",
        "LOOM_CI": "true",
        "LOOM_RUN_ID": run_id,
        "LOOM_PIPELINE_ID": run_id,
        "LOOM_WORKFLOW_PATH": workflow_path,
        "CI_PIPELINE_ID": run_id,
        "CI_PIPELINE_SOURCE": "local",
        "CI_COMMIT_SHA": head_sha,
        "CI_COMMIT_SHORT_SHA": head_sha[:8],
        "CI_PROJECT_NAME": project_name,
        "CI_COMMIT_REF_NAME": branch or (tags[0] if tags else head_sha),
    }
    if branch is not None:
        variables["CI_COMMIT_BRANCH"] = branch
    if tags and branch is None:
        variables["CI_COMMIT_TAG"] = tags[0]
    if origin_url:
        variables["CI_REPOSITORY_URL"] = origin_url
    return variables


def for_job(job: Job, *, project_dir: str, image_name: str) -> dict[str, str]:
    return {
        "LOOM_JOB_NAME": job.name,
        "LOOM_JOB_ID": job.id,
        "LOOM_JOB_STAGE": job.stage,
        "LOOM_JOB_TARGET": job.target,
        "LOOM_JOB_IMAGE": image_name,
        "LOOM_PROVIDER": job.provider.value,
        "LOOM_PROJECT_DIR": project_dir,
        "CI_PROJECT_DIR": project_dir,
        "CI_JOB_NAME": job.name,
        "CI_JOB_ID": job.id,
        "CI_JOB_STAGE": job.stage,
        "CI_JOB_IMAGE": image_name,
    }


def job_environment(job: Job, run: Mapping[str, str], *, project_dir: str, image_name: str) -> dict[str, str]:
    """Loom's variables, then the plan's; later ones win.

    A plan does not know yet where a job on the host will see the project, so that its values may still name that place.
    """
    variables = dict(job.variables)
    if job.provider is ProviderName.HOST:
        variables = {name: _PROJECT_DIR.sub(lambda _: project_dir, value) for name, value in variables.items()}
    return {**run, **for_job(job, project_dir=project_dir, image_name=image_name), **variables}


def project_name_of(root: PurePath) -> str:
    return root.name or "project"
