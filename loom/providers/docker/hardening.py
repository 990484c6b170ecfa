"""What the containers of a job in the hardened profile, and of its services, have less than others: arguments for the SDK's
`create_host_config`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OWNERS = ("CHOWN", "DAC_OVERRIDE", "FOWNER")
"""What root in a container needs to read the workspace of another user, and to give it back; other users have none."""

JOB: Mapping[str, Any] = {
    "cap_drop": ["ALL"],
    "cap_add": list(_OWNERS),
    "security_opt": ["no-new-privileges"],
}
SERVICE: Mapping[str, Any] = {
    **JOB,
    # Most services' images start as root and become a user of their own.
    "cap_add": [*_OWNERS, "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"],
    "pids_limit": 4096,
}
