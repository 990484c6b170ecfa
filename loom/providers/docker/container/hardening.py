"""Restrict the containers of hardened jobs and their services: arguments for the SDK's `create_host_config`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OWNERS = ("CHOWN", "DAC_OVERRIDE", "FOWNER")
"""Capabilities for root in a container to read another user's workspace and return it; other users get none."""

JOB: Mapping[str, Any] = {"cap_drop": ["ALL"], "cap_add": list(_OWNERS), "security_opt": ["no-new-privileges"]}
SERVICE: Mapping[str, Any] = {
    **JOB,
    # Most services' images start as root, then change the user.
    "cap_add": [*_OWNERS, "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"],
    "pids_limit": 4096,
}
