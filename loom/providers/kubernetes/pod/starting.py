"""Create a pod, and wait until its containers run: for its turn, for a node, for the images. An error says what is missing."""

from __future__ import annotations

import threading
import time

from msgspec import Struct

from loom.cancel import Cancel
from loom.errors import LoomError, ProviderError
from loom.providers.base import SessionRequest
from loom.providers.kubernetes.cluster import pods as states
from loom.providers.kubernetes.cluster.client import Cluster, Exists, Json
from loom.providers.kubernetes.cluster.pods import Pods
from loom.providers.kubernetes.images.snapshot import COPY
from loom.providers.kubernetes.pod.spec import HELPER, JOB, KEPT_UNTIL
from loom.status import OnOutput

NODE_S = 600.0
"""The time that a pod may wait for a node while no other of the run has one. `start_timeout` of the pool counts instead."""
START_S = 600.0
"""The time that it may then wait for its images. `start_timeout` counts here too."""
TELL_S = 10.0
"""A pod without a node by then says why, once."""


class QuotaQueue:
    """The front of the queue of jobs whose pods a quota refuses."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.others_at = 0.0
        """The time at which the run last had other pods, or at which a quota first refused a pod."""


class StartingPod(Struct, kw_only=True):
    """The pod of one job until it runs."""

    cluster: Cluster
    pods: Pods
    request: SessionRequest
    on_output: OnOutput
    cancel: Cancel
    name: str = ""
    """Empty until it was created."""
    warnings: list[str] = []

    def create(self, queue: QuotaQueue, pod: Json) -> None:
        """Create the pod. One that a quota refuses waits for the end of the run's other pods."""
        try:
            return self._create(pod)
        except LoomError as error:
            if not is_full(error):
                raise
            self.say(f"waits for other pods to end: {error.message}")
        refused_at = time.monotonic()
        while not queue.lock.acquire(timeout=1.0):
            self._unless_canceled()
        try:
            queue.others_at = max(queue.others_at, refused_at)
            name = pod["metadata"]["name"]
            while True:
                others = _leaving_pods(self.pods, name)
                if others:
                    queue.others_at = time.monotonic()
                try:
                    return self._create(pod)
                except LoomError as error:
                    # The quota counts a pod for a while after its end.
                    if not is_full(error) or time.monotonic() - queue.others_at > TELL_S:
                        raise
                self.pods.wait_for(
                    name,
                    lambda _, others=others: self.cancel.requested or not others <= _leaving_pods(self.pods, name),  # type: ignore[misc]
                    TELL_S if others else 1.0,
                )
                self._unless_canceled()
        finally:
            queue.lock.release()

    def _create(self, pod: Json) -> None:
        doing, name = f"creating the pod of job {self.request.job_id}", pod["metadata"]["name"]
        try:
            self.pods.put(self.cluster.call(doing, "create_namespaced_pod", pod))
        except Exists:
            # Nobody else knows the name: an earlier request succeeded, and its answer was lost.
            self.pods.put(self.cluster.call(doing, "read_namespaced_pod", name))
        self.name = name

    def find_node(self) -> None:
        """Wait until a node takes the pod. ProviderError with the scheduler's reason when none does."""
        given_s = self.request.pool.start_timeout if self.request.pool else None
        limit_s = given_s or NODE_S
        started = time.monotonic()
        if self.wait_for_node(min(TELL_S, limit_s)):
            return
        why = states.unscheduled(self.pods.get(self.name)) or "the scheduler has not said why"
        self.say(f"waits for a node: {why}")
        others = given_s is None and _others_have_nodes(self.pods, self.name)
        left_s = started + limit_s - time.monotonic()
        while not self.wait_for_node(left_s):
            if not others:
                why = (states.unscheduled(self.pods.get(self.name)) or why).rstrip(".")
                raise ProviderError(
                    f"no node took the pod of job {self.request.job_id} within {time.monotonic() - started:.0f} s: {why}",
                    hint="lower the job's limits, or see the node selector and tolerations of the pool's `pod_template`; "
                    "`start_timeout` of the pool says how long to wait",
                    code="POD_UNSCHEDULABLE",
                )
            others, left_s = _others_have_nodes(self.pods, self.name), limit_s

    def wait_for_node(self, limit_s: float) -> bool:
        seen = self.pods.wait_for(
            self.name, lambda pod: self.cancel.requested or pod is None or _has_node(pod), limit_s
        )
        self._unless_canceled()
        if (refused := states.refusal(seen, {})) is not None:
            raise refused
        return _has_node(seen or {})

    def wait_until_running(self) -> Json:
        """Wait until the pod's helper and the job run. The error says why they don't."""
        job = f"job {self.request.job_id}"
        names = {JOB: job, HELPER: job, COPY: f"the snapshot of {job}"}  # the helper has the job's image
        limit_s = (self.request.pool.start_timeout if self.request.pool else None) or START_S

        def known(pod: Json | None) -> bool:
            return self.cancel.requested or states.refusal(pod, names) is not None or _runs(pod)

        seen = self.pods.wait_for(self.name, known, limit_s)
        self._unless_canceled()
        if (refused := states.refusal(seen, names)) is not None:
            raise refused
        if seen is None or not _runs(seen):
            raise ProviderError(
                f"the pod of {job} did not start within {limit_s:.0f} s",
                hint="\n".join(states.events_of(self.cluster, self.name))
                or f"kubectl describe pod {self.name} tells more",
                code="POD_NOT_STARTED",
            )
        return seen

    def say(self, text: str) -> None:
        self.on_output("stdout", f"{text}\n".encode())

    def _unless_canceled(self) -> None:
        if self.cancel.requested:
            raise ProviderError(f"canceled while the pod of job {self.request.job_id} was starting", code="CANCELED")


def is_full(error: LoomError) -> bool:
    """Return whether a quota is used up; it may also ask for limits, which no other pod's end gives."""
    return error.code == "CLUSTER_QUOTA" and ", used: " in error.message


def _leaving_pods(pods: Pods, name: str) -> set[str]:
    """Return the other pods of the run that will leave their room; a kept one stays too long to wait for it."""
    there = (pod["metadata"] for pod in pods.beside(name))
    return {one["name"] for one in there if KEPT_UNTIL not in (one.get("labels") or {})}


def _has_node(pod: Json) -> bool:
    return bool((pod.get("spec") or {}).get("nodeName"))


def _others_have_nodes(pods: Pods, name: str) -> bool:
    """Return whether pods of the run take room that they will leave."""
    leave = _leaving_pods(pods, name)
    return any(_has_node(pod) for pod in pods.beside(name) if pod["metadata"]["name"] in leave)


def _runs(pod: Json | None) -> bool:
    return states.runs(pod, HELPER) and "waiting" not in (states.state_of(pod, JOB) or {"waiting": 1})
