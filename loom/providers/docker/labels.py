"""The labels and names of loom's resources in an engine.

Every container, network and volume that loom makes has them; `cleanup` decides by them what it may remove. `loom.pid`,
`loom.pid_start` and `loom.boot_id` identify the process that made the resource.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from loom.util.processes import boot_id, started_at

RUN = "loom.run"
JOB = "loom.job"
PID = "loom.pid"
PID_START = "loom.pid_start"
"""When that process started, in the kernel's ticks since boot: a later process with the same number is not it."""
BOOT_ID = "loom.boot_id"
WORKSPACE = "loom.workspace"
PROJECT_DIR = "loom.project_dir"
PID_NAMESPACE = "loom.pid_ns"
"""The namespace of the process number: a loom in a container has its own."""
ROLE = "loom.role"
"""`job`, `service`, `helper`, `overlay`, `volume` or `network`."""
SERVICE = "loom.service"
"""Names a service's container among those of its job."""
ONCE = "loom.once"
"""A service that runs once: it is not started again."""
CHECKPOINT = "loom.checkpoint"
EXPIRES = "loom.expires"
"""Until when a checkpoint's image stays, in seconds since the epoch. A container has that in its name."""
BUILD_REPOSITORY = "loom-build"
"""The images that loom builds have names in it; they have no labels, which would change what is built."""
HANDED_OVER = "loom.secrets"
"""A service that got secrets when it started: it can't be started again without them."""


def pid_namespace() -> str:
    """Names the set of process numbers that this process counts in."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return "unknown"


def labels(
    *, run_id: str, job_id: str, workspace: Path, pid: int, role: str, more: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the labels of a resource of one job, made by the process `pid`."""
    return {
        RUN: run_id,
        JOB: job_id,
        PID: str(pid),
        PID_START: started_at(pid),
        BOOT_ID: boot_id(),
        PID_NAMESPACE: pid_namespace(),
        WORKSPACE: str(workspace),
        ROLE: role,
        **(more or {}),
    }


def maker_is_gone(labelled: Mapping[str, str]) -> bool | None:
    """Whether the process that made this has ended; None when that is unknown here (it has another process namespace)."""
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
    """Return the name of a container that stays until `expires_at`. In the name, since labels can't change."""
    return f"{name.partition('.kept-until-')[0]}.kept-until-{int(expires_at)}"


def kept_until(name: str) -> float | None:
    """Return until when a container of that name is kept; None for one that is not kept."""
    match = re.search(r"\.kept-until-([0-9]+)\Z", name)
    return float(match[1]) if match else None
