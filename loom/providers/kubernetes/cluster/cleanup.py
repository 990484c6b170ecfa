"""Remove pods: those of closed sessions, and those that nobody needs any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from loom.cancel import Cancel
from loom.errors import LoomError
from loom.providers import labels
from loom.providers.kubernetes.cluster import pods as states
from loom.providers.kubernetes.pod.spec import DETACHED, HELPER, KEPT_UNTIL, MANAGED
from loom.providers.kubernetes.session.session import remove
from loom.util.processes import boot_id

if TYPE_CHECKING:
    from loom.providers.kubernetes.cluster.client import Cluster, Json
    from loom.providers.kubernetes.cluster.pods import Pods

GONE_S = 60.0
"""How long the cluster may take to remove a pod."""


class PodRemovals:
    """Removes pods in threads, and collects the failures."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._problems: list[str] = []
        self._lock = threading.Lock()

    def start(self, cluster: Cluster, pods: Pods, name: str) -> None:
        def work() -> None:
            try:
                remove(cluster, name)
                pods.forget(name)
            except LoomError as error:
                with self._lock:
                    self._problems.append(error.message)

        thread = threading.Thread(target=work, name=f"remove {name}", daemon=True)
        with self._lock:
            self._threads.append(thread)
        thread.start()

    def wait(self, cancel: Cancel) -> None:
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            if not cancel.join(thread):
                with self._lock:
                    self._problems.append(f"{thread.name}: not done; the pod's deadline ends it")

    def problems(self) -> Sequence[str]:
        with self._lock:
            found, self._problems = self._problems, []
        return found


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
