"""The labels and names of loom's engine resources.

Every container, network and volume of loom has them; `cleanup` uses them to decide what to remove. `loom.pid`,
`loom.pid_start` and `loom.boot_id` identify the creating process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from loom.util.processes import boot_id, started_at

if TYPE_CHECKING:
    from loom.providers.base import SessionRequest

RUN = "loom.run"
JOB = "loom.job"
PID = "loom.pid"
PID_START = "loom.pid_start"
"""The process's start time in kernel ticks since boot, which distinguishes later processes with the same id."""
BOOT_ID = "loom.boot_id"
WORKSPACE = "loom.workspace"
PROJECT_DIR = "loom.project_dir"
PID_NAMESPACE = "loom.pid_ns"
"""The process's pid namespace: a loom in a container has its own."""
ROLE = "loom.role"
"""`job`, `service`, `helper`, `overlay`, `volume` or `network`."""
SERVICE = "loom.service"
"""Identifies a service's container within its job."""
BUILD_REPOSITORY = "loom-build"
"""Built images are identified by name: labels would change the build's result."""
HANDED_OVER = "loom.secrets"
"""A service that received secrets when it started, so it can't be restarted without them."""


def pid_namespace() -> str:
    """Identify this process's pid namespace."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return "unknown"


def labels(*, run_id: str, job_id: str, workspace: Path, role: str) -> dict[str, str]:
    """Return the labels of a resource of one job, made by this process: after its end, the next run removes it."""
    return {
        RUN: run_id,
        JOB: job_id,
        PID: str(os.getpid()),
        PID_START: started_at(os.getpid()),
        BOOT_ID: boot_id(),
        PID_NAMESPACE: pid_namespace(),
        WORKSPACE: str(workspace),
        ROLE: role,
    }


def request_labels(request: SessionRequest, role: str) -> dict[str, str]:
    """Return the labels of a resource of a session, made by this process."""
    own = labels(run_id=request.run_id, job_id=request.job_id, workspace=request.workspace, role=role)
    return {**own, PROJECT_DIR: request.project_dir}


def maker_is_gone(labelled: Mapping[str, str]) -> bool | None:
    """Return whether the creating process has ended; None if unknown (another pid namespace)."""
    if labelled.get(BOOT_ID) != boot_id():
        return True
    if labelled.get(PID_NAMESPACE, pid_namespace()) != pid_namespace():
        return None
    try:
        pid = int(labelled.get(PID, ""))
    except ValueError:
        return None
    now = started_at(pid)
    then = labelled.get(PID_START)
    return not now or bool(then and now != then)


def kept_name(name: str, expires_at: float) -> str:
    """Return the name of a container kept until `expires_at`; in the name because labels can't change."""
    return f"{name.partition('.kept-until-')[0]}.kept-until-{int(expires_at)}"


def kept_until(name: str) -> float | None:
    """Return the expiry in a container's name; None if not kept."""
    match = re.search(r"\.kept-until-([0-9]+)\Z", name)
    return float(match[1]) if match else None
