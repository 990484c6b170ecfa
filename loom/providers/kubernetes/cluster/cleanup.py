"""Remove pods that nobody needs any more."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from loom.errors import LoomError
from loom.providers import labels
from loom.providers.kubernetes.cluster import pods as states
from loom.providers.kubernetes.pod.spec import DETACHED, HELPER, KEPT_UNTIL, MANAGED
from loom.providers.kubernetes.session.session import remove
from loom.util.processes import boot_id

if TYPE_CHECKING:
    from loom.providers.kubernetes.cluster.client import Cluster, Json


def reap(cluster: Cluster) -> list[str]:
    """Remove loom's pods that are over: ended, expired, or of a process of this machine that is gone. Return their names.

    Failures are left to the next one.
    """
    try:
        listed = cluster.call("looking for what is over", "list_namespaced_pod", label_selector=f"{MANAGED}=loom")
        found = [pod["metadata"]["name"] for pod in listed["items"] if is_over(pod, now=time.time())]
        for name in found:
            remove(cluster, name)
    except LoomError:
        return []
    return found


def is_over(pod: Json, *, now: float) -> bool:
    """Return whether nobody can need the pod."""
    meta: Mapping[str, Any] = pod["metadata"]
    expiry = (meta.get("labels") or {}).get(KEPT_UNTIL)
    if expiry is not None:
        return float(expiry) < now or states.is_over(pod, HELPER)
    if DETACHED in (meta.get("labels") or {}):
        return states.is_over(pod, HELPER)
    marks = meta.get("annotations") or {}
    if marks.get(labels.BOOT_ID) == boot_id():
        return labels.maker_is_gone(marks) is True
    # Another machine's: its loom may still read what an ended pod says, but not for long.
    return states.is_over(pod, HELPER) and _age(pod, now) > 3600.0


def _age(pod: Json, now: float) -> float:
    return now - datetime.fromisoformat(pod["metadata"]["creationTimestamp"]).timestamp()
