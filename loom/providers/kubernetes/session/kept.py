"""Pods that run or were kept: find, enter, resume and remove them.

A kept pod goes on unchanged: its driver waits for its next command, with whatever steps left running. A resume connects to
that driver, so nothing is lost between.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime

from msgspec.structs import replace

from loom.cancel import Cancel
from loom.errors import LoomError
from loom.plan.model import MountMode
from loom.providers import labels
from loom.providers.base import SessionRequest
from loom.providers.driver import protocol as driver
from loom.providers.kept import KeptFiles
from loom.providers.kubernetes.cluster import pods as states
from loom.providers.kubernetes.cluster.client import Cluster, Gone, Json
from loom.providers.kubernetes.cluster.pods import Pods
from loom.providers.kubernetes.pod.spec import DETACHED, HELPER, JOB, KEPT_UNTIL, MANAGED, selector
from loom.providers.kubernetes.session import exec as execs
from loom.providers.kubernetes.session.exec import PodInside
from loom.providers.kubernetes.session.files import PodFiles
from loom.providers.kubernetes.session.session import PodSession, SavedSession, facts_of, remove, root_refusal
from loom.status import OnOutput
from loom.util import typed
from loom.util.processes import boot_id
from loom.values import Environ


def find(cluster: Cluster, run_id: str, job_id: str, kept_id: str, namespaces: Iterable[str | None]) -> KeptPod | None:
    """Return a job's pod: the one with this id (`namespace/name`), else the newest with the job's labels; None if gone."""
    for there, pod in _candidates(cluster, run_id, job_id, kept_id, namespaces):
        if states.runs(pod, JOB) and not pod["metadata"].get("deletionTimestamp"):
            marks = pod["metadata"]["labels"]
            return KeptPod(
                cluster=there,
                name=pod["metadata"]["name"],
                kept=KEPT_UNTIL in marks,
                marks=pod["metadata"].get("annotations") or {},
            )
    return None


def _candidates(
    cluster: Cluster, run_id: str, job_id: str, kept_id: str, namespaces: Iterable[str | None]
) -> Iterator[tuple[Cluster, Json]]:
    doing = f"looking for the pod of job {job_id}"
    namespace, _, name = kept_id.partition("/")
    if name:
        there = cluster.at(namespace)
        with suppress(Gone):
            yield there, there.call(doing, "read_namespaced_pod", name)
    for there in {cluster.at(one).namespace: cluster.at(one) for one in namespaces}.values():
        listed = there.call(doing, "list_namespaced_pod", label_selector=selector(run_id, job_id))
        yield from (
            (there, pod)
            for pod in sorted(listed["items"], key=lambda one: str(one["metadata"]["creationTimestamp"]), reverse=True)
        )


class KeptPod(KeptFiles):
    """Implements `providers.base.KeptSession`."""

    cluster: Cluster

    @property
    def kept_id(self) -> str:
        return f"{self.cluster.namespace}/{self.name}"

    def wake(self, secrets: Mapping[str, bytes]) -> tuple[Mapping[str, str], bool]:
        return {name: f"{driver.DIRECTORY}/secret.{name}" for name in secrets}, False

    def inside(self, environment: Environ, *, as_root: bool = False) -> PodInside:
        if as_root and self._owner()[0] != 0:
            raise root_refusal(self.marks.get(labels.JOB, ""))
        return PodInside(cluster=self.cluster, pod=self.name, workdir=self.project_dir, environment=environment)

    def has_its_files(self, mode: MountMode) -> bool:
        return True

    def as_root(self, program: bytes) -> tuple[int, str]:
        code, _, err = execs.run(
            self.cluster, self.name, HELPER, ["sh"], stdin=lambda: [program], doing="replacing files of the kept pod"
        )
        return code, err.decode("utf-8", "replace").strip()

    def files(self, *, to_write: bool = False) -> PodFiles:
        return PodFiles(self.cluster, self.name, self.request(), owner=self._owner() if to_write else (0, 0))

    def remove(self) -> Sequence[str]:
        try:
            remove(self.cluster, self.name)
        except LoomError as error:
            return [error.message]
        return []

    def _owner(self) -> tuple[int, int]:
        """Return the user of the job's container."""
        script = "while read -r k v r; do case $k in Uid:) u=$v ;; Gid:) echo $u $v ;; esac; done </proc/self/status"
        _, out, _ = execs.run(
            self.cluster, self.name, JOB, ["sh", "-c", script], doing="looking at the job's container"
        )
        uid, gid = out.split()
        return int(uid), int(gid)

    @contextmanager
    def adopt(self, request: SessionRequest, on_output: OnOutput, cancel: Cancel) -> Iterator[PodSession]:
        with self._session(request, on_output, cancel) as session:
            try:
                session.start(cancel, running=True)
                yield session
            except BaseException:
                # An error does not remove a pod that was kept for a person: it stays as long as it was to.
                pod = self.cluster.call("looking at the kept pod", "read_namespaced_pod", self.name)
                if until := float(pod["metadata"]["labels"].get(KEPT_UNTIL, "0")):
                    session.link.lease(max(1.0, until - time.time()))
                    session.link.confirmed(10.0)
                raise
            session.leave()
        if session.kept_until is None:
            remove(self.cluster, self.name)

    @contextmanager
    def attach(
        self, saved: bytes, request: SessionRequest, on_output: OnOutput, cancel: Cancel
    ) -> Iterator[PodSession]:
        with self._session(request, on_output, cancel, typed.decode(saved, SavedSession)) as session:
            try:
                yield session
            finally:
                session.leave()
                if session.kept_until is None:
                    remove(self.cluster, self.name)

    @contextmanager
    def _session(
        self, request: SessionRequest, on_output: OnOutput, cancel: Cancel, saved: SavedSession | None = None
    ) -> Iterator[PodSession]:
        pods = Pods(self.cluster, selector(self.marks.get(labels.RUN, ""), self.marks.get(labels.JOB, "")))
        pods.wait_for(self.name, lambda pod: bool(pod), 10.0)
        facts = facts_of(self.cluster, self.name, kept="adopted")
        if saved is not None:
            facts = replace(facts, user=saved.user, auto_shell=saved.auto_shell, details=saved.details)
        session = PodSession(
            self.cluster,
            pods,
            request,
            facts,
            pod=self.name,
            snapshots=None,
            on_output=on_output,
            cancel=cancel,
            saved=saved,
        )
        try:
            yield session
        finally:
            session.link.close()
            pods.close()


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
    meta, over = pod["metadata"], states.is_over(pod, HELPER)
    own, marks = meta.get("labels") or {}, meta.get("annotations") or {}
    if KEPT_UNTIL in own:
        return over or float(own[KEPT_UNTIL]) < now
    if DETACHED in own:
        return over
    if marks.get(labels.BOOT_ID) == boot_id():
        return labels.maker_is_gone(marks) is True
    # Another machine's: its loom may still read what an ended pod says, but not for long.
    return over and now - datetime.fromisoformat(meta["creationTimestamp"]).timestamp() > 3600.0
