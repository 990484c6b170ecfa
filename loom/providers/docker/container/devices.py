"""Devices and GPUs for jobs: arguments for the engine."""

from __future__ import annotations

import re
from typing import Any

from loom.errors import ProviderError
from loom.plan.model import Resources


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
                f"{resources.places.get('gpus', 'the workflow')}: podman knows GPUs by the names of CDI alone",
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
