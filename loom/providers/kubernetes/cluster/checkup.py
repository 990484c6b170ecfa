"""What a pool needs of its cluster, for `loom doctor --on`: verbs, admission of a pod, quotas, the registry."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from loom.cancel import Cancel
from loom.errors import ImageError, LoomError
from loom.plan.model import PROJECT_DIR, Job
from loom.pools import Pool
from loom.providers.base import SessionRequest
from loom.providers.kubernetes.cluster import pods as states
from loom.providers.kubernetes.cluster.client import Cluster, Json
from loom.providers.kubernetes.cluster.pods import Pods
from loom.providers.kubernetes.images.names import PodImage
from loom.providers.kubernetes.images.snapshot import COPY, Pushed, SnapshotImages, copying
from loom.providers.kubernetes.pod.services import placed
from loom.providers.kubernetes.pod.spec import MANAGED, name_of, specification
from loom.providers.kubernetes.pod.starting import LargestNode, too_large
from loom.providers.kubernetes.session.session import remove
from loom.util.units import counted

VERBS = (
    *((verb, "pods", "") for verb in ("create", "get", "list", "watch", "delete", "patch")),
    *((verb, "pods", "exec") for verb in ("create", "get")),
    ("get", "pods", "log"),
    ("list", "events", ""),
)
"""Each verb that loom uses, with its resource and subresource: the Role of docs/explanation/job-pod.md."""
_NICE = ("events",)
"""Without these, errors say less; nothing fails."""
_PULL_S = 120.0


class CheckResult(Struct, frozen=True, kw_only=True):
    state: Literal["ok", "warn", "bad"]
    name: str
    text: str
    advice: str | None = None


def findings(pool: Pool, environ: Mapping[str, str], image: str, jobs: Sequence[Job] = ()) -> Iterator[CheckResult]:
    """Look at the pool's cluster. Nothing stays in it. `jobs`: those of the workflow that would run there."""
    cluster = Cluster.of(pool.context, environ).at(pool.namespace)
    try:
        cluster.call("looking for the cluster", "list_namespaced_pod", limit=1, patience_s=0.0)
        yield CheckResult(state="ok", name="cluster", text=f"{cluster.host}, namespace {cluster.namespace}")
        yield _verbs(cluster)
        yield from _admission(cluster, pool, image, jobs)
        yield from _quotas(cluster)
        if pool.registry is not None:
            yield _registry(cluster, pool, environ)
    except LoomError as error:
        yield CheckResult(state="bad", name="cluster", text=error.message, advice=error.hint)
    finally:
        cluster.close()


def _verbs(cluster: Cluster) -> CheckResult:
    missing = [(verb, *what) for verb, *what in VERBS if not cluster.may(verb, *what)]
    if not missing:
        return CheckResult(state="ok", name="rights", text=f"each of the {len(VERBS)} verbs that loom uses")
    text = ", ".join(f"{verb} {'/'.join(filter(None, what))}" for verb, *what in missing)
    needed = any(what[0] not in _NICE for _, *what in missing)
    return CheckResult(
        state="bad" if needed else "warn",
        name="rights",
        text=f"not allowed in namespace {cluster.namespace}: {text}",
        advice="the Role in loom's documentation of the job's pod has each verb" if needed else "errors will say less",
    )


def _admission(cluster: Cluster, pool: Pool, image: str, jobs: Sequence[Job]) -> Iterator[CheckResult]:
    """Ask the API server whether it would take these jobs' pods: pod security, limit ranges, quotas, webhooks."""
    plain = Job(id="doctor", name="doctor", stage="", steps=(), provider=pool.place)
    largest = LargestNode().of(cluster)
    refused: list[str] = []
    for name, pod in _pods((plain, *jobs), pool, image):
        try:
            answer = cluster.call("asking for a pod", "create_namespaced_pod", pod(), dry_run="All")
            if found := too_large(answer, largest):
                yield CheckResult(
                    state="warn", name=name, text="; ".join(found), advice="an autoscaler may add such a node"
                )
        except LoomError as error:
            refused.append(name)
            yield CheckResult(state="bad", name=name, text=error.message, advice=error.hint)
            if name == "pods":
                return
    if not refused:
        also = f", and those of {counted(len(jobs), 'job')} of the workflow" if jobs else ""
        text = f"the API server would take a plain job's pod{also} (asked without making one)"
        yield CheckResult(state="ok", name="pods", text=text)


def _pods(jobs: Iterable[Job], pool: Pool, image: str) -> Iterator[tuple[str, Callable[[], Json]]]:
    """A function for the pod of each job, and what to call it; jobs whose pods differ only in their names count as one."""
    alike: set[bytes] = set()
    for job in jobs:
        shape = msgspec.json.encode(
            [job.image, job.resources, job.network, job.privileged, job.docker_socket, job.hardened, job.services]
        )
        if shape not in alike:
            alike.add(shape)
            yield "pods" if job.id == "doctor" else f"job {job.id}", partial(_pod, job, pool, image)


def _pod(job: Job, pool: Pool, image: str) -> Json:
    """The pod of a job in a run, without its variables. LoomError for what a pod can't have."""
    request = replace(
        _request(Path("/"), pool),
        job_id=job.id,
        image=job.image,
        resources=job.resources,
        network=job.network,
        privileged=job.privileged,
        docker_socket=job.docker_socket,
        hardened=job.hardened,
    )
    images = [PodImage(name=one.image.name or image, image_id=one.image.name or image) for one in job.services]
    named = (job.image.name if job.image else None) or image
    return specification(request, name_of(request), {}, placed(job.services, images), image=named, pid=0)


def _request(workspace: Path, pool: Pool) -> SessionRequest:
    return SessionRequest(run_id="doctor", job_id="doctor", workspace=workspace, project_dir=PROJECT_DIR, pool=pool)


def _quotas(cluster: Cluster) -> Iterator[CheckResult]:
    try:
        listed = cluster.call("reading quotas", "list_namespaced_resource_quota", patience_s=0.0)
    except LoomError:
        yield CheckResult(state="ok", name="quota", text="may not be read here; a refused pod names it")
        return
    for quota in listed["items"]:
        status = quota.get("status") or {}
        used = status.get("used") or {}
        text = ", ".join(f"{key}: {used.get(key, 0)} of {most}" for key, most in (status.get("hard") or {}).items())
        yield CheckResult(state="ok", name=f"quota {quota['metadata']['name']}", text=text)


def _registry(cluster: Cluster, pool: Pool, environ: Mapping[str, str]) -> CheckResult:
    """Push a snapshot of one file, and let a node pull it."""
    with tempfile.TemporaryDirectory(prefix="loom-doctor-") as folder:
        workspace = Path(folder, "workspace")
        workspace.mkdir()
        (workspace / "file").write_text("loom doctor\n")
        images = SnapshotImages(pool, environ, Path(folder, "layers"))
        said: list[str] = []
        pushed = images.of(_request(workspace, pool), lambda _, data: said.append(data.decode()), Cancel())
    if pushed is None:
        return CheckResult(state="bad", name="registry", text="".join(said).strip(), advice="see the pool's `registry`")
    error = _pulled(cluster, pool, pushed)
    if error is not None:
        return CheckResult(state="bad", name="registry", text=error.message, advice=error.hint)
    return CheckResult(
        state="ok", name="registry", text=f"{pool.registry}: a snapshot was pushed, and a node pulled it"
    )


def _pulled(cluster: Cluster, pool: Pool, pushed: Pushed) -> LoomError | None:
    """Run the image once on a node."""
    request = _request(Path("/"), pool)
    pod: Json = specification(request, name_of(request), {}, (), image=pushed.reference, pid=0)
    pod["spec"] |= {"containers": [{**copying(pushed, {}), "command": ["sh", "-c", "exit 0"]}], "volumes": []}
    name = pod["metadata"]["name"]
    pods = Pods(cluster, f"{MANAGED}=loom")
    pods.put(cluster.call("making a pod", "create_namespaced_pod", pod))
    try:
        refused: LoomError | None = None

        def over(seen: Mapping[str, object] | None) -> bool:
            nonlocal refused
            refused = states.refusal(seen, {COPY: "the snapshot"})
            return refused is not None or "terminated" in states.state_of(seen, COPY)

        seen = pods.wait_for(name, over, _PULL_S)
        if refused is None and "terminated" not in states.state_of(seen, COPY):
            why = states.unscheduled(seen) or "it did not start"
            return ImageError(f"a pod with the snapshot did not run within {_PULL_S:.0f} s: {why}")
        return refused
    finally:
        remove(cluster, name)
        pods.close()
