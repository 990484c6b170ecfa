"""The Kubernetes provider: creates a job's pod and session, and cleans up."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from pathlib import Path
from secrets import token_hex

from msgspec.structs import replace

from loom.cancel import Cancel
from loom.errors import ImageError, ProviderError
from loom.images.reference import parse_reference
from loom.plan.image_lock import ImageLock
from loom.plan.model import Build, Image, Job, MountMode, Resolved
from loom.providers.base import Capabilities, Provider, ResolveRequest, SessionRequest, Setup
from loom.providers.driver import protocol as driver
from loom.providers.kubernetes.cluster.client import Cluster, Json
from loom.providers.kubernetes.cluster.pods import Pods, SnapshotUnavailable
from loom.providers.kubernetes.images.snapshot import Pushed, SnapshotImages
from loom.providers.kubernetes.pod import services as of_pod
from loom.providers.kubernetes.pod import starting
from loom.providers.kubernetes.pod.policies import REFUSED, NamespacePolicies, policies_of
from loom.providers.kubernetes.pod.services import PodServices
from loom.providers.kubernetes.pod.spec import (
    is_confined,
    name_of,
    selector,
    specification,
    unenforced,
)
from loom.providers.kubernetes.session.files import PackedSnapshots
from loom.providers.kubernetes.session.kept import KeptPod, find, reap
from loom.providers.kubernetes.session.session import PodSession, facts_of, remove
from loom.providers.removals import Removals
from loom.providers.services import Output
from loom.status import OnOutput


def provider(setup: Setup) -> Provider:
    """Create the provider for a context of the kubeconfig."""
    return KubernetesProvider(Cluster.of(setup.context, setup.environ), setup)


class KubernetesProvider(Provider):
    """Implements `providers.base.Provider`."""

    name = "kubernetes"
    capabilities = Capabilities(mounts=frozenset({MountMode.VOLUME}), isolated=True, detachable=True)

    def __init__(self, cluster: Cluster, setup: Setup) -> None:
        self._cluster = cluster
        self._setup = setup
        self._snapshots = PackedSnapshots()
        self._lock = threading.Lock()
        self._pods: dict[str, Pods] = {}
        self._services: dict[str, PodServices] = {}
        self._images_of: dict[str, SnapshotImages] = {}
        self._queue = starting.QuotaQueue()
        self._removals = Removals()
        self._reaped: set[str] = set()
        self._policies: dict[str, NamespacePolicies] = {}
        """The rules of the namespaces that have refused a pod."""

    @cached_property
    def images(self) -> PodImages:
        return PodImages(self._setup.lock, frozen=self._setup.config.frozen)

    def check(self) -> None:
        self._cluster.call("looking for the cluster", "list_namespaced_pod", limit=1, patience_s=0.0)

    def described(self) -> str:
        return f"Kubernetes at {self._cluster.host}"

    @contextmanager
    def open(self, request: SessionRequest, on_output: OnOutput, cancel: Cancel) -> Iterator[PodSession]:
        cluster = self._cluster.at(request.pool.namespace if request.pool else None)
        with ExitStack() as stack:
            # Not after `--fail-fast`: other jobs go on.
            stack.callback(cancel.on_request(lambda: None if cancel.exit_code is None else cluster.hurry()))
            services = self._services.get(request.network_id or "")
            session: PodSession | None = None
            with self._lock:
                pods = self._pods.setdefault(cluster.namespace, Pods(cluster, selector(self._setup.run_id or "none")))
            start = starting.StartingPod(
                cluster=cluster, pods=pods, request=request, on_output=on_output, cancel=cancel
            )
            pushed = self._pushed(start)
            try:
                stack.callback(cancel.on_request(pods.wake))
                pod, pushed = self._start(start, services, pushed)
                session = self._session(start, pod, services, pushed, stack)
                yield session
            finally:
                if session is not None:
                    session.leave()
                if services is not None:
                    services.leave()
                if start.name and (session is None or session.kept_until is None):
                    self._remove_later(cluster, start.pods, start.name)

    # The start

    def _pushed(self, start: starting.StartingPod) -> Pushed | None:
        """Return the snapshot in the pool's registry; None without one, and where the copy could not keep its owners."""
        pool = start.request.pool
        if pool is None or pool.registry is None or is_confined(pool):
            return None
        with self._lock:
            if pool.registry not in self._images_of:
                key = hashlib.sha256(f"{pool.registry} {self._setup.root}".encode("utf-8", "surrogateescape"))
                kept = self._setup.config.cache_dir / "pushed" / f"{key.hexdigest()[:32]}.json"
                self._images_of[pool.registry] = SnapshotImages(pool, self._setup.environ, kept)
        images = self._images_of[pool.registry]
        return images.of(start.request, start.on_output, start.warnings.append, start.cancel)

    def _start(
        self, start: starting.StartingPod, services: PodServices | None, pushed: Pushed | None
    ) -> tuple[Json, Pushed | None]:
        """Start the pod; return it, and the snapshot that it copied: None where its node does not get that image."""
        self._create(start, services, pushed)
        self._reap_once(start.cluster)
        start.find_node()
        try:
            return start.wait_until_running(), pushed
        except SnapshotUnavailable as error:
            start.warnings.append(f"{error.message}; the snapshot is sent to each pod")
            for images in self._images_of.values():
                images.give_up(start.request)
            self._remove_later(start.cluster, start.pods, start.name)
            return self._start(start, services, None)

    def _create(self, start: starting.StartingPod, services: PodServices | None, pushed: Pushed | None) -> None:
        request = start.request
        name = name_of(request)
        environment, _ = driver.environment(request.environment)
        containers = services.containers if services else ()
        known = self._policies.get(start.cluster.namespace, NamespacePolicies())
        make = partial(specification, request, name, environment, containers, image=request.image_to_run, pushed=pushed)
        try:
            start.create(self._queue, make(policies=known))
        except ProviderError as error:
            if (
                error.code not in REFUSED
                or starting.is_full(error)
                or (found := self._policies_of(start.cluster)) == known
            ):
                raise
            start.create(self._queue, make(policies=found))

    def _policies_of(self, cluster: Cluster) -> NamespacePolicies:
        with self._lock:
            if cluster.namespace not in self._policies:
                self._policies[cluster.namespace] = policies_of(cluster)
            return self._policies[cluster.namespace]

    def _session(
        self,
        start: starting.StartingPod,
        pod: Json,
        services: PodServices | None,
        pushed: Pushed | None,
        stack: ExitStack,
    ) -> PodSession:
        cluster, pods, name, request, cancel = start.cluster, start.pods, start.name, start.request, start.cancel
        session = PodSession(
            cluster,
            pods,
            request,
            replace(
                facts_of(
                    cluster,
                    name,
                    network=request.network.mode or "default",
                    privileged=str(request.privileged).lower(),
                    node=pod["spec"].get("nodeName", ""),
                ),
                warnings=(*start.warnings, *unenforced(request.resources, request.network.mode)),
            ),
            pod=name,
            snapshots=self._snapshots,
            pushed=pushed,
            on_output=start.on_output,
            cancel=cancel,
        )
        stack.callback(session.link.close)
        session.start(cancel)
        if services is not None:
            of_pod.wait_until(cluster, pods, name, services)
            stack.enter_context(of_pod.watched(pods, name, services))
        return session

    @contextmanager
    def services(self, job: Job, request: ResolveRequest, on_died: Callable[[str, str], None]) -> Iterator[PodServices]:
        images = [self.images.resolve(one.image, request) for one in job.services]
        key = token_hex(8)
        opened = PodServices(
            network_id=key,
            containers=of_pod.containers_of(job.services, images),
            images=images,
            variables=of_pod.variables(job.services),
            output=Output(request.on_output),
            cancel=request.cancel,
            on_died=on_died,
        )
        self._services[key] = opened
        try:
            yield opened
        finally:
            del self._services[key]
            opened.close()
        opened.output.check()

    def find(self, run_id: str, job_id: str, kept_id: str = "", *, user: str = "") -> KeptPod | None:
        namespaces = {pool.namespace for pool in self._setup.config.pools.values() if pool.provider == self.name}
        return find(self._cluster, run_id, job_id, kept_id, {*namespaces, None})

    def remove_run(self, run_id: str, jobs: Sequence[Job]) -> Sequence[str]:
        for namespace in {job.pool.namespace if job.pool else None for job in jobs}:
            there = self._cluster.at(namespace)
            listed = there.call(
                f"looking for the pods of run {run_id}", "list_namespaced_pod", label_selector=selector(run_id)
            )
            for pod in listed["items"]:
                remove(there, pod["metadata"]["name"])
        return ()

    def has_image(self, image_id: str) -> bool:
        return True

    def close(self, cancel: Cancel | None = None) -> Sequence[str]:
        self._removals.wait(cancel or Cancel())
        for pods in self._pods.values():
            pods.close()
        self._snapshots.close()
        self._cluster.close()
        return self._removals.problems()

    def _remove_later(self, cluster: Cluster, pods: Pods, name: str) -> None:
        def work() -> None:
            remove(cluster, name)
            pods.forget(name)

        self._removals.start(f"remove {name}", work)

    def _reap_once(self, cluster: Cluster) -> None:
        """Remove what is over while jobs already run."""
        with self._lock:
            if cluster.namespace in self._reaped:
                return
            self._reaped.add(cluster.namespace)
        threading.Thread(target=reap, args=(cluster,), name="reap", daemon=True).start()


class PodImages:
    """Implements `providers.base.ImageResolver`: the nodes pull, so nothing is made available here.

    `Resolved.image_id` is what the pod names: with a digest where one is known.
    """

    def __init__(self, lock: ImageLock | None, *, frozen: bool) -> None:
        self._lock = lock
        self._frozen = frozen
        self.identity_of: Callable[[str], str | None] = lambda folder: None

    def resolve(self, image: Image, request: ResolveRequest) -> Resolved:
        if image.build is not None or image.name is None:
            raise ImageError(
                "an image that is built from the repository is not in a registry, where a cluster's nodes could get it",
                hint="push it, and name it in `image:`; or run this job in Docker",
                code="CLUSTER_IMAGE_UNAVAILABLE",
            )
        reference = parse_reference(image.name)
        if reference.digest:
            return Resolved(name=image.name, image_id=image.name, digest=reference.digest)
        locked = self._lock.get(image.name, image.platform or "linux/amd64") if self._lock else None
        if locked is not None and locked.digest:
            return Resolved(name=image.name, image_id=reference.pinned(locked.digest), digest=locked.digest)
        if self._frozen:
            raise ImageError(
                f"{image.name} has no digest in the lock file, and a frozen run (--frozen, --strict) uses nothing else",
                hint="`loom images lock` adds it, for an image that a registry has",
                code="IMAGE_NOT_LOCKED",
            )
        return Resolved(name=image.name, image_id=image.name)

    def absent(self, images: Sequence[Image]) -> Mapping[str, ImageError]:
        return {}  # the cluster's nodes pull them

    def keep_inputs(self, builds: Iterable[Build], *, workspace: Path, folder: Path) -> None:
        """Keep nothing: nothing is built."""
