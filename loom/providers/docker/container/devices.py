"""Devices and GPUs for jobs: arguments for the engine, and its refusals."""

from __future__ import annotations

import re
from typing import Any

from loom.errors import ProviderError
from loom.plan.model import Resources
from loom.providers.base import SessionRequest

NVIDIA = "nvidia.com/gpu"


def devices_of(resources: Resources) -> list[dict[str, str]] | None:
    """Parse `/dev/X`, `/dev/X:rw` and `/dev/X:/dev/Y:rw` like the `docker` command."""
    found = []
    for device in resources.devices:
        if is_cdi(device):
            continue
        path, _, rest = device.partition(":")
        inside, _, rights = rest.rpartition(":") if rest.startswith("/") and ":" in rest else (rest, "", "")
        if not inside.startswith("/"):
            inside, rights = path, inside
        found.append({"PathOnHost": path, "PathInContainer": inside, "CgroupPermissions": rights or "rwm"})
    return found or None


def device_requests_of(resources: Resources, *, podman: bool) -> list[dict[str, Any]] | None:
    """Request GPUs (`all`, a number, `device=0,1`) and devices of a vendor's tool (CDI)."""
    requests: list[dict[str, Any]] = []
    described = [device for device in resources.devices if is_cdi(device)]
    if (gpus := resources.gpus) and podman:
        # Podman accepts Docker's form without effect; it knows GPUs by CDI names.
        described += [f"{NVIDIA}={gpu}" for gpu in _gpu_names(gpus)]
    elif gpus:
        request: dict[str, Any] = {"Driver": "", "Capabilities": [["gpu"]], "Options": {}}
        if gpus.startswith("device="):
            request["DeviceIDs"] = _gpu_names(gpus)
        else:
            request["Count"] = -1 if gpus == "all" else int(gpus)
        requests.append(request)
    if described:
        requests.append({"Driver": "cdi", "DeviceIDs": described})
    return requests or None


def is_cdi(device: str) -> bool:
    """`vendor.com/class=name`."""
    return re.fullmatch(r"[A-Za-z][\w.-]*/[A-Za-z][\w.-]*=[\w.:-]+", device) is not None


def _gpu_names(gpus: str) -> list[str]:
    if gpus.startswith("device="):
        return gpus.removeprefix("device=").split(",")
    return ["all"] if gpus == "all" else [str(number) for number in range(int(gpus))]


def refused(request: SessionRequest, answer: str) -> ProviderError | None:
    """Return the error if the engine's answer `answer` means that it lacks a device; else None."""
    resources, job = request.resources, request.job_id
    no_driver = "could not select device driver" in answer
    if resources.gpus and (no_driver or NVIDIA in answer):
        place = resources.places.get("gpus", "the workflow")
        return ProviderError(
            f"{place}: the engine has no GPUs that it could hand to job {job} (`gpus: {resources.gpus}`): {answer}",
            hint="install the NVIDIA container toolkit where the engine runs (podman: `nvidia-ctk cdi generate`), "
            "or run the job without `gpus`",
            code="DEVICE_UNAVAILABLE",
        )
    for device in resources.devices:
        name = device if is_cdi(device) else device.partition(":")[0]
        inside = [word for word in device.split(":") if word.startswith("/")][-1:]
        if any(word in answer for word in (name, *inside)) or (is_cdi(device) and no_driver):
            place = resources.places.get("devices", "the workflow")
            return ProviderError(
                f"{place}: the engine can't hand {name} to job {job}: {answer}",
                hint="it must be there on the machine where the engine runs; a rootless engine hands in what its user may open, "
                "and rootless Docker only under its own name",
                code="DEVICE_UNAVAILABLE",
            )
    return None
