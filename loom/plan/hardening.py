"""The hardened profile: the reduced rights of jobs from untrusted sources.

The user's own limits become maximums. A job that requests more than the profile allows is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec.structs import replace

from loom import config as c
from loom.plan import model as p

PIDS = 1024
"""The process limit of a job, if the user's configuration has none."""
_TMPFS = {"/tmp": "exec,mode=1777,size=1g", "/var/tmp": "exec,mode=1777,size=1g", "/run": "mode=755,size=64m"}
"""Paths that programs expect to be writable, beside the workspace."""

Refuse = Callable[[tuple[str, ...], str], None]
"""Report a problem of the job at these keys."""


def hardened(job: p.Job, config: c.Config, refuse: Refuse) -> p.Job:
    """Apply the profile to `job`; call `refuse` for each request beyond it."""
    by = config.origins.get("hardened")
    profile = f"the hardened profile ({by.source})" if by is not None and by.source else "the hardened profile"
    for at, what in _excess(job, config):
        refuse(at, f"{profile} does not give {what}; remove it, or run without the profile: LOOM_HARDENED=0")
    resources = job.resources
    taken = {entry.partition(":")[0].rstrip("/") for entry in resources.tmpfs}
    tmpfs = tuple(f"{path}:{options}" for path, options in _TMPFS.items() if path not in taken)
    return replace(
        job,
        hardened=True,
        network=replace(job.network, mode=job.network.mode or "none"),
        resources=replace(
            resources, read_only=True, pids=resources.pids or config.pids or PIDS, tmpfs=(*resources.tmpfs, *tmpfs)
        ),
    )


def _excess(job: p.Job, config: c.Config) -> Iterator[tuple[tuple[str, ...], str]]:
    resources = job.resources
    if job.privileged:
        yield ("privileged",), "privileges"
    if job.docker_socket:
        yield ("docker_socket",), "the engine's socket"
    if resources.devices:
        yield ("resources", "devices"), "devices"
    if resources.gpus:
        yield ("resources", "gpus"), "GPUs"
    if job.network.mode not in c.PLAIN_NETWORKS:
        yield ("network",), f"the network {job.network.mode}"
    for key, most in (("cpus", config.cpus), ("memory", config.memory), ("pids", config.pids or PIDS)):
        asked = getattr(resources, key)
        if asked is not None and most is not None and asked > most:
            yield (
                ("resources", key),
                f"`{key}: {c.text_of(key, asked)}`, more than your limit of {c.text_of(key, most)}",
            )
