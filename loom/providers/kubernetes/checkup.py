"""Check what a pool needs of its cluster, for `loom doctor --on`: verbs, admission of a pod, quotas, the registry."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from loom.cancel import Cancel
from loom.config.pools import Pool
from loom.errors import LoomError
from loom.plan.model import PROJECT_DIR
from loom.providers.base import SessionRequest
from loom.providers.kubernetes.cluster.client import Cluster
from loom.providers.kubernetes.images.snapshot import SnapshotImages
from loom.providers.kubernetes.pod.policies import NamespacePolicies, policies_of, proposed, yaml_lines
from loom.providers.kubernetes.pod.spec import is_confined, name_of, specification
from loom.values import Environ, Immutable

VERBS = (
    *((verb, "pods", "") for verb in ("create", "get", "list", "watch", "delete", "patch")),
    *((verb, "pods", "exec") for verb in ("create", "get")),
    ("get", "pods", "log"),
    ("list", "events", ""),
    ("list", "limitranges", ""),
    ("list", "resourcequotas", ""),
    ("get", "namespaces", ""),
)
"""Each verb that loom uses, with its resource and subresource: the Role of docs/explanation/job-pod.md."""


class CheckResult(Immutable):
    state: Literal["ok", "warn", "bad"]
    name: str
    text: str
    advice: str | None = None


def findings(pool: Pool, environ: Environ, image: str) -> Iterator[CheckResult]:
    """Look at the pool's cluster. Nothing stays in it."""
    cluster = Cluster.of(pool.context, environ).at(pool.namespace)
    try:
        cluster.call("looking for the cluster", "list_namespaced_pod", limit=1, patience_s=0.0)
        yield CheckResult(state="ok", name="cluster", text=f"{cluster.host}, namespace {cluster.namespace}")
        yield _verbs(cluster)
        policies = policies_of(cluster)
        yield _admission(cluster, pool, image, policies)
        if disputed := policies.disputed(pool):
            text = f"they differ, and the cluster takes the one that it reads first ({'; '.join(disputed)})"
            advice = "set `limits` and `requests` of the pool"
            yield CheckResult(state="warn", name="limit ranges", text=text, advice=advice)
        yield from _quotas(cluster)
        if pool.registry is not None:
            yield _registry(pool, environ)
    except LoomError as error:
        name = "registry" if error.code == "REGISTRY_INVALID" else "cluster"
        yield CheckResult(state="bad", name=name, text=error.message, advice=error.hint)
    finally:
        cluster.close()


def _verbs(cluster: Cluster) -> CheckResult:
    missing = [(verb, *what) for verb, *what in VERBS if not cluster.may(verb, *what)]
    if not missing:
        return CheckResult(state="ok", name="rights", text=f"each of the {len(VERBS)} verbs that loom uses")
    text = ", ".join(f"{verb} {'/'.join(filter(None, what))}" for verb, *what in missing)
    needed = any(what[0] == "pods" for _, *what in missing)
    return CheckResult(
        state="bad" if needed else "warn",
        name="rights",
        text=f"not allowed in namespace {cluster.namespace}: {text}",
        advice="the Role in loom's guide for clusters has each verb" if needed else "errors will say less",
    )


def _admission(cluster: Cluster, pool: Pool, image: str, policies: NamespacePolicies) -> CheckResult:
    """Ask the API server whether it would take a plain job's pod: pod security, limit ranges, quotas, webhooks."""

    def refusal(pool: Pool) -> LoomError | None:
        request, refused = _request(Path("/"), pool), None
        for known in (
            NamespacePolicies(),
            policies,
        ):  # as a run does: the rules count where the cluster has refused a pod
            try:
                pod = specification(request, name_of(request), {}, (), image=image, policies=known)
                cluster.call("asking for a pod", "create_namespaced_pod", pod, dry_run="All")
            except LoomError as error:
                refused = error
            else:
                return None
        return refused

    if (refused := refusal(pool)) is None:
        text = "the API server would take a plain job's pod (asked without making one)"
        return CheckResult(state="ok", name="pods", text=text)
    advice, fitting = refused.hint, proposed(pool, policies, confined=is_confined(pool))
    if fitting != pool and refusal(fitting) is None:
        advice = "\n".join(("this pool fits, in your ~/.config/loom/config.yml:", *yaml_lines(fitting)))
    return CheckResult(state="bad", name="pods", text=refused.message, advice=advice)


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


def _registry(pool: Pool, environ: Environ) -> CheckResult:
    """Push a snapshot of one file."""
    with tempfile.TemporaryDirectory(prefix="loom-doctor-") as folder:
        workspace = Path(folder, "workspace")
        workspace.mkdir()
        (workspace / "file").write_text("loom doctor\n")
        images = SnapshotImages(pool, environ, Path(folder, "pushed"))
        said: list[str] = []
        pushed = images.of(_request(workspace, pool), lambda *_: None, said.append, Cancel())
    if pushed is None:
        return CheckResult(state="bad", name="registry", text="".join(said), advice="see the pool's `registry`")
    return CheckResult(state="ok", name="registry", text=f"{pool.registry}: a snapshot was pushed")
