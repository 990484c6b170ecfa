"""Watch the pods of a run: one watch for all of them; the reason why a pod does not run or is gone."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from loom.cancel import Cancel
from loom.errors import EngineUnavailable, ImageError, LoomError, ProviderError
from loom.providers.kubernetes.cluster.client import Cluster, Gone, Json, is_transient
from loom.providers.kubernetes.images.snapshot import COPY
from loom.util.retrying import Policy, retrying

_NO_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
_NO_START = (
    "CreateContainerError",
    "CreateContainerConfigError",
    "RunContainerError",
    "StartError",
    "ContainerCannotRun",
)
_COURSE = ("Scheduled", "Pulling", "Pulled", "Created", "Started", "Killing", "MissingClusterDNS")
"""Reasons of events that only say how far a pod has come."""

_WATCHING = "watching the pods of the run"
_WATCH = Policy(when=is_transient, limit_s=300.0, first_wait_s=0.5, exact=True)
_DELETED = (
    "someone deleted it, or its namespace, or its node was drained: run the job again"
    " (`retry: {max: 1, when: [provider_failure]}` does so by itself)"
)


class PodLost(ProviderError):
    """The pod is gone through no fault of the job."""

    default_code = "POD_LOST"


class SnapshotUnavailable(ImageError):
    """The node can't get the image of the snapshot."""


class Pods:
    """The pods with one label, as last seen. The watch starts with the first wait. Thread-safe."""

    def __init__(self, cluster: Cluster, selector: str) -> None:
        self._cluster = cluster
        self._selector = selector
        self._changed = threading.Condition()
        self._seen: dict[str, Json] = {}
        self._gone: set[str] = set()
        self._thread: threading.Thread | None = None
        self._lines: Any = None
        self._closing = Cancel()
        self._error: LoomError | None = None

    def wait_for(self, name: str, found: Callable[[Json | None], bool], limit_s: float) -> Json | None:
        """Wait until the pod (None: gone) is as wanted; return it as it is then, wanted or not."""
        deadline = time.monotonic() + limit_s
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="pods of the run", daemon=True)
                self._thread.start()
            while not found(self.get(name)) and (left := deadline - time.monotonic()) > 0:
                if self._error is not None:
                    raise self._error
                self._changed.wait(left)
            return self.get(name)

    def get(self, name: str) -> Json | None:
        return None if name in self._gone else self._seen.get(name, {})

    def beside(self, name: str) -> list[Json]:
        """Return the other pods of the run that are there."""
        with self._changed:
            return [pod for one, pod in self._seen.items() if one != name and one not in self._gone]

    def put(self, pod: Json) -> None:
        """Take note of a pod that was just made."""
        with self._changed:
            self._seen.setdefault(pod["metadata"]["name"], pod)

    def forget(self, name: str) -> None:
        with self._changed:
            self._seen.pop(name, None)
            self._gone.add(name)

    def wake(self) -> None:
        """Let whoever waits look again."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        self._closing.request()
        if (lines := self._lines) is not None:
            lines.close()
        if self._thread is not None:
            self._thread.join(5.0)

    def _watch(self) -> None:
        try:
            while not self._closing.requested:
                retrying(self._once, _WATCH, worked=lambda: self._lines is not None, cancel=self._closing)
        except Exception as error:  # noqa: BLE001  raised where it is waited for
            if self._closing.requested:
                return
            with self._changed:
                self._error = error if isinstance(error, LoomError) else ProviderError(f"{_WATCHING}: {error!r}")
                self._changed.notify_all()

    def _once(self) -> None:
        self._lines = None
        before = set(self._seen)  # one that is made from now on may not be in the list
        listed = self._cluster.call(_WATCHING, "list_namespaced_pod", label_selector=self._selector, patience_s=0.0)
        there = {pod["metadata"]["name"]: pod for pod in listed["items"]}
        with self._changed:
            self._gone |= before - there.keys()
            self._seen |= there
            self._changed.notify_all()
        self._follow(listed["metadata"]["resourceVersion"])

    def _follow(self, version: str) -> None:
        lines = self._lines = self._cluster.lines(
            _WATCHING,
            "list_namespaced_pod",
            label_selector=self._selector,
            resource_version=version,
            watch=True,
            timeout_seconds=300,
        )
        if self._closing.requested:  # `close` has not seen it
            lines.close()
        for line in lines:
            event = json.loads(line)
            if event["type"] == "ERROR":  # too old: list again
                return
            if event["type"] in ("ADDED", "MODIFIED", "DELETED"):
                name = event["object"]["metadata"]["name"]
                with self._changed:
                    self._seen[name] = event["object"]
                    if event["type"] == "DELETED":
                        self._gone.add(name)
                    self._changed.notify_all()


# What a pod's status says


def state_of(pod: Json | None, container: str) -> Json:
    """Return the state of a container: a mapping with `waiting`, `running` or `terminated`; empty if unknown."""
    status = (pod or {}).get("status") or {}
    for one in (*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())):
        if one["name"] == container:
            return dict(one.get("state") or {})
    return {}


def memory_limit(pod: Json | None, container: str) -> str:
    """Return the most memory that a container may have; empty for any."""
    containers = ((pod or {}).get("spec") or {}).get("containers") or ()
    found = ((one.get("resources") or {}).get("limits") or {} for one in containers if one["name"] == container)
    return next((str(limits.get("memory") or "") for limits in found), "")


def is_ready(pod: Json | None, container: str) -> bool:
    statuses = ((pod or {}).get("status") or {}).get("containerStatuses") or ()
    return any(one["name"] == container and one.get("ready") for one in statuses)


def runs(pod: Json | None, container: str) -> bool:
    return "running" in state_of(pod, container)


def is_taken_away(pod: Json | None) -> bool:
    """Return whether someone or the cluster ends the pod: it was deleted or evicted, or is out of time."""
    if pod is None or (pod.get("metadata") or {}).get("deletionTimestamp"):
        return True
    return (pod.get("status") or {}).get("reason") in (
        "Evicted",
        "DeadlineExceeded",
        "Preempting",
        "NodeLost",
        "Shutdown",
    )


def is_over(pod: Json | None, container: str) -> bool:
    """Return whether a container can't be connected to any more; not for one that has not started."""
    if is_taken_away(pod):
        return True
    assert pod is not None
    return "terminated" in state_of(pod, container) or (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded")


def refusal(pod: Json | None, names: Mapping[str, str]) -> LoomError | None:
    """Return the error of a pod that will not start; None while it may. `names`: what a message calls each container."""
    if pod is None:
        return PodLost("the pod was deleted before it ran", hint=_DELETED)
    status, spec = pod.get("status") or {}, pod.get("spec") or {}
    if status.get("phase") == "Failed" and not status.get("containerStatuses"):
        return PodLost(
            f"the pod failed before it ran: {status.get('reason')}: {status.get('message') or ''}".rstrip(": ")
        )
    for name, what in names.items():
        state = state_of(pod, name)
        if name == COPY and (state.get("terminated") or {}).get("exitCode"):
            return ProviderError(
                f"{what} could not be copied in the pod",
                hint=f"the image of the pool's `registry_base` needs sh and cp, and the node room: "
                f"kubectl logs {pod['metadata']['name']} -c {name}",
                code="POD_FILES_DIFFER",
            )
        waiting = state.get("waiting") or {}
        why, message = str(waiting.get("reason") or ""), str(waiting.get("message") or "")
        containers = (*(spec.get("containers") or ()), *(spec.get("initContainers") or ()))
        image = next((one["image"] for one in containers if one["name"] == name), "")
        # Between two tries the kubelet only says that it waits: the next one has the reason.
        if why in _NO_IMAGE and not re.fullmatch('Back-off pulling image "[^"]*"', message):
            kind = SnapshotUnavailable if name == COPY else ImageError
            return kind(
                f"the cluster can't get the image {image} of {what}: {message or why}",
                hint="check its name and tag; the nodes need a registry that they reach and may pull from (`imagePullSecrets` in"
                " the `pod_template`), or the image itself (`kind load docker-image NAME`)",
                code="CLUSTER_IMAGE_UNAVAILABLE",
            )
        ended = state.get("terminated") or {}
        if why in _NO_START or ended.get("reason") in _NO_START:
            return ImageError(
                f"{what} can't start from the image {image}: {message or ended.get('message') or why or ended.get('reason')}",
                hint="a job needs `sh` in its image; see also its user and entrypoint",
                code="CLUSTER_CONTAINER_NOT_STARTED",
            )
    return None


def unscheduled(pod: Json | None) -> str:
    """Return the reason that no node takes the pod; empty when one does, or the scheduler has not said."""
    for condition in ((pod or {}).get("status") or {}).get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("message") or condition.get("reason") or "")
    return ""


def events_of(cluster: Cluster, name: str) -> list[str]:
    """Return the newest events of a pod that say more than its course, as text; empty where they may not be read."""
    try:
        listed = cluster.call("reading events", "list_namespaced_event", field_selector=f"involvedObject.name={name}")
    except LoomError:
        return []
    telling = (one for one in listed["items"] if one.get("reason") not in _COURSE)
    items = sorted(telling, key=lambda one: str(one.get("lastTimestamp") or one.get("eventTime") or ""))
    return list(dict.fromkeys(f"{one.get('reason')}: {one.get('message')}" for one in items))[-5:]


def _eviction(status: Json) -> str:
    """Return why the cluster takes the pod away: a full node; from 1.26 on also preemption and a drained node."""
    if status.get("reason") == "Evicted":
        return str(status.get("message"))
    for one in status.get("conditions") or ():
        if one.get("type") == "DisruptionTarget" and one.get("status") == "True":
            return f"{one.get('reason')}: {one.get('message')}"
    return ""


def loss_error(cluster: Cluster, name: str, job_id: str, *, doing: str = "while it ran") -> LoomError:
    """Return the error for a pod whose helper is gone, with the cluster's reason."""
    try:
        pod: Json | None = cluster.call("looking at the pod", "read_namespaced_pod", name, patience_s=10.0)
    except Gone:
        pod = None
    except LoomError as error:
        return error
    where = f"the pod {name} of job {job_id}"
    told = "\n".join(events_of(cluster, name))
    if pod is None:
        return PodLost(f"{where} was deleted {doing}", hint=told or _DELETED)
    status = pod.get("status") or {}
    node = (pod.get("spec") or {}).get("nodeName", "")
    if status.get("reason") == "DeadlineExceeded":
        return PodLost(f"{where} reached its deadline", hint="`deadline` of the pool allows more", code="POD_DEADLINE")
    if said := _eviction(status):
        return PodLost(f"{where} on node {node} was evicted {doing}: {said}", code="POD_EVICTED", hint=told or None)
    if (pod.get("metadata") or {}).get("deletionTimestamp"):
        how = "was lost with its node" if "NodeNotReady" in told else "was deleted from node"
        return PodLost(f"{where} {how} {node} {doing}", hint=told or _DELETED)
    ended = state_of(pod, "loom").get("terminated")
    if ended is not None:
        return PodLost(
            f"{where} ended {doing}: its helper's exit code was {ended.get('exitCode')} ({ended.get('reason')})",
            hint=told or None,
        )
    return EngineUnavailable(
        f"the connection to {where} on node {node} was lost, and could not be made again",
        hint=told or "`kubectl get pods,nodes` shows their state",
        code="CLUSTER_UNAVAILABLE",
    )
