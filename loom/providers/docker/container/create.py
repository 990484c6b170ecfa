"""Create a job's container."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any

from loom.errors import LoomError, ProviderError
from loom.plan.model import Resources
from loom.providers import labels
from loom.providers.base import JOB_CAPS, SERVICE_CAPS, SessionFacts, SessionRequest
from loom.providers.docker.container import refusals
from loom.providers.docker.container.mounts import Mount
from loom.providers.docker.engine.client import ENGINES_SOCKET, EngineClient, Traits
from loom.providers.docker.engine.retries import asked
from loom.providers.driver import protocol as driver

HARDENED_JOB: Mapping[str, Any] = {
    "cap_drop": ["ALL"],
    "cap_add": list(JOB_CAPS),
    "security_opt": ["no-new-privileges"],
}
"""Arguments for the SDK's `create_host_config`; those of a service follow."""
HARDENED_SERVICE: Mapping[str, Any] = {
    **HARDENED_JOB,
    "cap_add": list(SERVICE_CAPS),
    "pids_limit": 4096,
}


def create(
    client: EngineClient,
    request: SessionRequest,
    name: str,
    mount: Mount,
) -> SessionFacts:
    """Create it with its workspace view. ImageError or ProviderError on failure."""
    api = client.api
    traits = Traits(client)
    mount.make()
    config = api.create_container_config(
        image=request.image_to_run,
        command=None,
        entrypoint=driver.command_behind(request.image.entrypoint, driver.BOOT),
        environment=driver.environment(request.environment)[0],
        working_dir=request.project_dir,
        hostname=request.network.hostname,
        user=request.image.user,
        stdin_open=True,
        stop_signal="SIGKILL",  # the driver ignores TERM, and a step's `kill 1` should not look like a stop
        labels=labels.request_labels(request, "job"),
        host_config=api.create_host_config(
            **host_config(request, mount, traits),
            # The whole log, whatever the engine's default: a lost connection is resumed from its beginning.
            log_config={"Type": "json-file", "Config": {} if traits.podman else {"max-size": "1000t"}},
        ),
    )
    # When the only attached client disappears, even by `kill -9`, the input closes.
    config["StdinOnce"] = True
    try:
        made = api.create_container_from_config(config, name, request.image.platform)
    except Exception as error:
        raise refusals.creation_error(error, request) or error from error
    warnings = [*map(str, made.get("Warnings") or ())]
    if unenforced := traits.unenforced(request.resources):
        warnings.append(f"the engine does not enforce {', '.join(unenforced)}: it has no control groups for that")
    return SessionFacts(
        container_id=str(made["Id"]),
        container_name=name,
        details={
            "network": request.network_id or request.network.mode or "default",
            "privileged": str(request.privileged).lower(),
            "docker_socket": str(request.docker_socket).lower(),
        },
        warnings=tuple(warnings),
    )


def name_of(request: SessionRequest) -> str:
    job = re.sub(r"[^A-Za-z0-9_.-]+", "-", request.job_id)[:60]
    return f"loom-{request.run_id[-10:]}-{job}-{secrets.token_hex(3)}"


def host_config(request: SessionRequest, mount: Mount, traits: Traits) -> dict[str, Any]:
    """Return arguments for the SDK's `create_host_config`: no more rights than in CI, unless requested."""
    limits = limits_of(request.resources)
    mounts = [*mount.spec(), *limits.pop("mounts", ())]
    if request.docker_socket:
        mounts.append({"Type": "bind", "Source": traits.socket, "Target": ENGINES_SOCKET})
    config: dict[str, Any] = {
        **limits,
        "init": True,
        "mounts": mounts,
        "tmpfs": {driver.DIRECTORY: f"mode=1777,size={128 << 20}", **limits.get("tmpfs", {})},
        "network_mode": request.network_id or request.network.mode,
        "extra_hosts": dict(request.network.extra_hosts) or None,
        "privileged": request.privileged,
        "devices": devices_of(request.resources),
        "device_requests": device_requests_of(request.resources, podman=traits.podman),
        "read_only": request.resources.read_only or None,
        **(HARDENED_JOB if request.hardened else {}),
    }
    return {key: value for key, value in config.items() if value is not None}


def limits_of(resources: Resources) -> dict[str, Any]:
    """Return the limits among the arguments; services may have them too."""
    found = {
        "nano_cpus": None if resources.cpus is None else int(resources.cpus * 1_000_000_000),
        "cpuset_cpus": f"0-{resources.processors - 1}" if resources.processors else None,
        "mem_limit": resources.memory,
        # Swap would delay and hide an out-of-memory end.
        "memswap_limit": resources.memory,
        "pids_limit": resources.pids,
        "shm_size": resources.shm_size,
        "ulimits": [{"Name": limit.name, "Soft": limit.soft, "Hard": limit.hard} for limit in resources.ulimits],
        "tmpfs": {path: options for path, _, options in (entry.partition(":") for entry in resources.tmpfs)},
        "mounts": [{"Type": "volume", "Target": path} for path in resources.volumes],
    }
    return {key: value for key, value in found.items() if value}


def devices_of(resources: Resources) -> list[dict[str, str]] | None:
    """Parse `/dev/X`, `/dev/X:rw` and `/dev/X:/dev/Y:rw` like the `docker` command."""
    found = []
    for path, *rest in (device.split(":") for device in resources.devices if not is_cdi(device)):
        inside = next((part for part in rest if part.startswith("/")), path)
        rights = next((part for part in rest if not part.startswith("/")), "rwm")
        found.append({"PathOnHost": path, "PathInContainer": inside, "CgroupPermissions": rights})
    return found or None


def device_requests_of(resources: Resources, *, podman: bool) -> list[dict[str, Any]] | None:
    """Request GPUs (`all`, a number, `device=0,1`) and devices of a vendor's tool (CDI)."""
    requests: list[dict[str, Any]] = []
    if gpus := resources.gpus:
        if podman:  # it accepts Docker's form without effect
            raise ProviderError(
                f"{resources.sources.get('gpus', 'the workflow')}: podman knows GPUs by the names of CDI alone",
                hint='write `devices: ["nvidia.com/gpu=all"]` instead of `gpus` (`nvidia-ctk cdi generate` makes the names)',
                code="DEVICE_UNAVAILABLE",
            )
        which: dict[str, Any] = {"Count": -1 if gpus == "all" else int(gpus)} if "=" not in gpus else {}
        which = which or {"DeviceIDs": gpus.removeprefix("device=").split(",")}
        requests.append({"Driver": "", "Capabilities": [["gpu"]], "Options": {}, **which})
    if described := [device for device in resources.devices if is_cdi(device)]:
        requests.append({"Driver": "cdi", "DeviceIDs": described})
    return requests or None


def is_cdi(device: str) -> bool:
    """`vendor.com/class=name`."""
    return re.fullmatch(r"[A-Za-z][\w.-]*/[A-Za-z][\w.-]*=[\w.:-]+", device) is not None


def image_is_there(client: EngineClient, image_id: str) -> bool:
    try:
        asked("looking for the image", lambda: client.api.inspect_image(image_id))
    except LoomError as error:
        if getattr(error.__cause__, "status_code", None) == 404:
            return False
        raise
    return True
