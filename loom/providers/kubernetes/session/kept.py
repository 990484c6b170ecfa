"""Pods that run or were kept: find, enter and resume them.

A kept pod goes on unchanged: its driver waits for its next command, with whatever steps left running. A resume connects to
that driver, so nothing is lost between.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from loom.cancel import Cancel
from loom.errors import LoomError
from loom.plan.model import MountMode
from loom.providers import labels
from loom.providers.base import SessionFacts, SessionRequest
from loom.providers.driver import protocol as driver
from loom.providers.driver.steps import SH
from loom.providers.files import unpack
from loom.providers.kept import Kept
from loom.providers.kubernetes.cluster import pods as states
from loom.providers.kubernetes.cluster.client import Gone
from loom.providers.kubernetes.cluster.pods import Pods
from loom.providers.kubernetes.pod.spec import HELPER, JOB, KEPT_UNTIL, lease_of, selector
from loom.providers.kubernetes.session import exec as execs
from loom.providers.kubernetes.session.files import PodFiles
from loom.providers.kubernetes.session.inside import PodInside
from loom.providers.kubernetes.session.link import Link
from loom.providers.kubernetes.session.session import PodSession, SavedSession, not_as_root, remove, saved_of
from loom.status import OnOutput

if TYPE_CHECKING:
    from loom.providers.kubernetes.cluster.client import Cluster, Json
    from loom.storage.workspace import OnSkipped


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


class KeptPod(Kept, frozen=True, kw_only=True):
    """Implements `providers.base.KeptSession`."""

    cluster: Cluster

    @property
    def kept_id(self) -> str:
        return f"{self.cluster.namespace}/{self.name}"

    def wake(self, secrets: Mapping[str, bytes]) -> tuple[Mapping[str, str], bool]:
        return {name: f"{driver.DIRECTORY}/secret.{name}" for name in secrets}, False

    def inside(self, environment: Mapping[str, str], *, as_root: bool = False) -> PodInside:
        if as_root and self._owner()[0] != 0:
            raise not_as_root(self.marks.get(labels.JOB, ""))
        return PodInside(cluster=self.cluster, pod=self.name, workdir=self.project_dir, environment=environment)

    def has_its_files(self, mode: MountMode) -> bool:
        return True

    def copy_files(self, target: Path, on_skipped: OnSkipped) -> None:
        target.mkdir(parents=True, mode=0o700)
        unpack(self._files().get(["."], on_skipped), target, on_skipped)

    def as_root(self, program: bytes) -> tuple[int, str]:
        code, _, err = execs.run(
            self.cluster, self.name, HELPER, ["sh"], stdin=lambda: [program], doing="replacing files of the kept pod"
        )
        return code, err.decode("utf-8", "replace").strip()

    def put(self, archive: Iterable[bytes]) -> None:
        self._files().put(archive, self._owner())

    def remove(self) -> Sequence[str]:
        try:
            remove(self.cluster, self.name)
        except LoomError as error:
            return [error.message]
        return []

    def _files(self) -> PodFiles:
        return PodFiles(self.cluster, self.name, self.request())

    def _owner(self) -> tuple[int, int]:
        """The user of the job's container."""
        script = "while read -r k v r; do case $k in Uid:) u=$v ;; Gid:) echo $u $v ;; esac; done </proc/self/status"
        _, out, _ = execs.run(
            self.cluster, self.name, JOB, ["sh", "-c", script], doing="looking at the job's container"
        )
        uid, gid = out.split()
        return int(uid), int(gid)

    @contextmanager
    def adopt(self, request: SessionRequest, on_output: OnOutput, cancel: Cancel) -> Iterator[PodSession]:
        with self._session(request, on_output, cancel) as (session, link):
            try:
                session.start(cancel, running=True)
                yield session
            except BaseException:
                # An error does not remove a pod that was kept for a person: it stays as long as it was to.
                until = float(self._kept_until())
                if until:
                    link.lease(max(1.0, until - time.time()))
                    link.confirmed(10.0)
                raise
            session.leave()
        if session.kept_until is None:
            remove(self.cluster, self.name)

    @contextmanager
    def attach(
        self, saved: bytes, request: SessionRequest, on_output: OnOutput, cancel: Cancel
    ) -> Iterator[PodSession]:
        with self._session(request, on_output, cancel, saved_of(saved)) as (session, _):
            try:
                yield session
            finally:
                session.leave()
                if session.kept_until is None:
                    remove(self.cluster, self.name)

    @contextmanager
    def _session(
        self, request: SessionRequest, on_output: OnOutput, cancel: Cancel, saved: SavedSession | None = None
    ) -> Iterator[tuple[PodSession, Link]]:
        pods = Pods(self.cluster, selector(self.marks.get(labels.RUN, ""), self.marks.get(labels.JOB, "")))
        pods.wait_for(self.name, lambda pod: bool(pod), 10.0)
        link = Link(
            self.cluster,
            self.name,
            lease_s=lease_of(request),
            is_over=lambda: states.is_over(pods.get(self.name), HELPER),
            adopt=True,
            keeps=saved is not None,
            taken=saved.taken if saved is not None else None,
        )
        facts = SessionFacts(
            provider="kubernetes",
            image=(request.image.name if request.image else None) or "",
            image_id=request.image_id or "",
            container_id=self.kept_id,
            container_name=self.name,
            user=saved.user if saved is not None else "",
            auto_shell=saved.auto_shell if saved is not None else SH,
            details={"mount_mode": request.mount_mode.value, "kept": "adopted", "namespace": self.cluster.namespace}
            if saved is None
            else saved.details,
        )
        session = PodSession(
            self.cluster,
            pods,
            request,
            facts,
            link,
            pod=self.name,
            environment=driver.environment(request.environment),
            snapshots=None,
            on_output=on_output,
            cancel=cancel,
            saved=saved,
        )
        try:
            yield session, link
        finally:
            link.close()
            pods.close()

    def _kept_until(self) -> str:
        pod = self.cluster.call("looking at the kept pod", "read_namespaced_pod", self.name)
        return str(pod["metadata"]["labels"].get(KEPT_UNTIL, "0"))
