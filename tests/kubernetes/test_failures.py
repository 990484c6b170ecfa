"""Failures of a cluster, provoked for real: the error names the reason, and `loom doctor` finds it before a run where it can."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from loom import providers
from loom.cancel import Cancel
from loom.config import Config
from loom.config.pools import Pool, parsed
from loom.errors import LoomError
from loom.plan.model import Image, Resources
from loom.providers.base import Setup
from loom.providers.command import Command
from loom.providers.kubernetes.checkup import CheckResult, findings
from loom.providers.kubernetes.pod import starting
from tests.support import kubernetes
from tests.support.effort import LONG
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.kubernetes.conftest import Job as OpenJob
    from tests.kubernetes.conftest import Pods

pytestmark = [pytest.mark.kubernetes, pytest.mark.slow]
long = pytest.mark.skipif(not LONG, reason="takes long: LOOM_TEST_LONG=1 runs it")


def refused(pods: Pods, **changes: Any) -> LoomError:
    with pytest.raises(LoomError) as raised, pods.job(**changes):
        pass
    assert raised.value.exit_code == 3
    return raised.value


def lost(job: OpenJob, disturb: Callable[[], object]) -> LoomError:
    """The error of a step that runs while something happens to its pod."""
    started = threading.Event()
    disturbing = threading.Thread(target=lambda: started.wait(60) and disturb())
    disturbing.start()
    step = Command(script="echo started; sleep 600", shell=(), timeout_s=100)
    with pytest.raises(LoomError) as raised:
        job.session.run(step, lambda *_: started.set(), Cancel())
    disturbing.join()
    assert raised.value.exit_code == 3
    return raised.value


def test_rules_of_the_namespace(pods: Pods, namespace: Any) -> None:
    pool = Pool(provider="kubernetes", namespace=namespace.namespace)

    def doctor() -> str:
        found = {one.name: one for one in findings(pool, kubernetes.environ(), kubernetes.IMAGE)}
        assert found["rights"].state == "ok"
        assert "quota rule" in found
        assert found["pods"].state == "bad"
        return found["pods"].text

    def quota(hard: dict[str, str], *, method: str, named: tuple[str, ...] = ()) -> None:
        namespace.call("ruling", method, *named, {"metadata": {"name": "rule"}, "spec": {"hard": hard}})
        until(lambda: namespace.call("looking", "read_namespaced_resource_quota", "rule")["status"].get("hard") == hard)

    quota({"pods": "0"}, method="create_namespaced_resource_quota")
    error = refused(pods, pool=pool)
    assert (error.code, "rule, requested: pods=1, used: pods=0, limited: pods=0" in error.message) == (
        "CLUSTER_QUOTA",
        True,
    )
    assert "limited: pods=0" in doctor()
    quota({"limits.memory": "1Gi"}, method="replace_namespaced_resource_quota", named=("rule",))
    error = refused(pods, pool=pool)
    wanted = "quota rule (limits.memory: 1Gi) wants `limits` of memory for each container"
    assert (error.code, wanted in error.message) == ("CLUSTER_QUOTA", True)
    assert wanted in doctor()

    limits = {"limits": [{"type": "Container", "max": {"memory": "64Mi"}, "default": {"memory": "32Mi"}}]}
    namespace.call("ruling", "create_namespaced_limit_range", {"metadata": {"name": "rule"}, "spec": limits})
    error = until(lambda: refused(pods, pool=pool, resources=Resources(memory=128 << 20)))
    assert (error.code, "rules do not allow such a pod: maximum memory usage" in error.message) == (
        "CLUSTER_POD_REFUSED",
        True,
    )


def test_values_are_made_to_fit_a_limit_range(pods: Pods, namespace: Any) -> None:
    """A default below what a job reserves, and a least above what the helper does."""
    rule = {
        "type": "Container",
        "default": {"cpu": "100m"},
        "min": {"cpu": "20m"},
        "max": {"memory": "200Mi"},
        "maxLimitRequestRatio": {"cpu": "2"},
    }
    namespace.call("ruling", "create_namespaced_limit_range", {"metadata": {"name": "r"}, "spec": {"limits": [rule]}})
    plain = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "p", "image": "p"}]}}
    until(
        lambda: namespace.call("asking", "create_namespaced_pod", plain, dry_run="All")["spec"]["containers"][0][
            "resources"
        ]
    )
    pool = Pool(provider="kubernetes", namespace=namespace.namespace)
    for resources in (Resources(), Resources(memory=64 << 20)):
        with pods.job(pool=pool, resources=resources) as job:
            assert job.run("echo fits")[1] == b"fits\n"
    with pods.job(pool=pool) as job:
        ended, _ = job.run("x=$(head -c 300000000 /dev/zero | tr '\\0' x); echo ${#x}")
        assert ended.limited_by == f": a LimitRange of the namespace {namespace.namespace} gives it 200Mi"
    assert asked(pool)["pods"].state == "ok"


def test_doctor_prints_a_pool_that_fits_a_quota(pods: Pods, namespace: Any) -> None:
    hard = {"limits.cpu": "3", "limits.memory": "1Gi", "requests.memory": "1Gi", "cpu": "200m"}
    whole = {"limits": [{"type": "Pod", "max": {"cpu": "800m"}}]}
    namespace.call("ruling", "create_namespaced_limit_range", {"metadata": {"name": "r"}, "spec": whole})
    namespace.call("ruling", "create_namespaced_resource_quota", {"metadata": {"name": "q"}, "spec": {"hard": hard}})
    until(lambda: namespace.call("looking", "read_namespaced_resource_quota", "q")["status"].get("hard") == hard)
    pool = Pool(provider="kubernetes", namespace=namespace.namespace, name="team")
    found = asked(pool)["pods"]
    assert (found.state, "set `limits: {cpu: ...}` of the pool" in (refused(pods, pool=pool).hint or "")) == (
        "bad",
        True,
    )
    printed = yaml.safe_load("\n".join((found.advice or "").splitlines()[1:]))["pools"]
    fitting = parsed(printed)["team"]
    assert fitting.limits == {"cpu": "400m", "memory": "768Mi"}
    assert fitting.requests == {"cpu": "190m", "memory": "256Mi"}, "a limit alone would reserve as much"
    assert asked(fitting)["pods"].state == "ok"
    with pods.job(pool=fitting) as job:
        assert job.run("echo fits")[1] == b"fits\n"


def asked(pool: Pool) -> dict[str, CheckResult]:
    """What `loom doctor` finds, by name."""
    return {one.name: one for one in findings(pool, kubernetes.environ(), kubernetes.IMAGE)}


def test_a_namespace_that_is_deleted_in_mid_run(pods: Pods, namespace: Any, cluster: Any) -> None:
    pool = Pool(provider="kubernetes", namespace=namespace.namespace)
    with pods.job(pool=pool) as job:
        error = lost(job, lambda: cluster.call("removing", "delete_namespace", namespace.namespace))
        assert (error.code, "was deleted" in error.message, "Killing" in str(error)) == ("POD_LOST", True, False)
        again = refused(pods, pool=pool)
    assert again.code == "CLUSTER_NAMESPACE_UNKNOWN"


def test_a_pod_that_is_evicted_by_the_api(pods: Pods, cluster: Any) -> None:
    evict = cluster.api.create_namespaced_pod_eviction
    with pods.job() as job:
        body = {"metadata": {"name": job.pod, "namespace": cluster.namespace}}
        error = lost(job, lambda: evict(job.pod, cluster.namespace, body, _preload_content=False))
    # Clusters before 1.26 don't say that it was an eviction.
    assert error.code in ("POD_LOST", "POD_EVICTED")
    assert "was deleted" in error.message or "was evicted" in error.message


@long
def test_a_pod_that_its_node_evicts(pods: Pods) -> None:
    template = {"spec": {"containers": [{"name": "job", "resources": {"limits": {"ephemeral-storage": "4Mi"}}}]}}
    with pods.job(pool=Pool(provider="kubernetes", pod_template=template)) as job, pytest.raises(LoomError) as raised:
        job.run("head -c 20000000 /dev/zero >/big; sleep 600", timeout_s=100)
    assert raised.value.code == "POD_EVICTED"
    assert "ephemeral local storage" in raised.value.message


def test_the_pool_says_how_long_a_pod_waits_for_a_node(pods: Pods) -> None:
    pool = Pool(provider="kubernetes", pod_template=kubernetes.NOWHERE, start_timeout=1)
    error = refused(pods, pool=pool)
    assert error.code == "POD_UNSCHEDULABLE"
    assert "within 1 s" in error.message


def test_a_pod_waits_for_its_turn_while_others_of_the_run_have_the_nodes(
    pods: Pods, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port of a node is one that only one pod can have."""
    monkeypatch.setattr(starting, "TELL_S", 0.2)
    monkeypatch.setattr(starting, "NODE_S", 0.4)
    port = {"name": "job", "ports": [{"containerPort": 31999, "hostPort": 31999}]}
    with pods.job(pool=Pool(provider="kubernetes", pod_template={"spec": {"containers": [port]}})) as first:
        node = cluster.call("looking", "read_namespaced_pod", first.pod)["spec"]["nodeName"]
        there = Pool(
            provider="kubernetes",
            pod_template={"spec": {"containers": [port], "nodeSelector": {"kubernetes.io/hostname": node}}},
        )
        looked, ending = threading.Semaphore(0), threading.Event()
        within: Any = starting.StartingPod.wait_for_node

        def counted(*given: Any) -> bool:
            looked.release()
            return bool(within(*given[:-1], 60.0 if ending.is_set() else given[-1]))

        monkeypatch.setattr(starting.StartingPod, "wait_for_node", counted)
        said: list[bytes] = []
        failed: list[BaseException] = []

        def wait_for_turn() -> None:
            try:
                with pods.job(pool=there, job_id="second") as second:
                    said.append(second.run("echo its turn")[1])
            except LoomError as error:
                failed.append(error)

        second = threading.Thread(target=wait_for_turn)
        second.start()
        for _ in range(5):
            assert looked.acquire(timeout=60)
        ending.set()
    second.join(120)
    assert (said, failed) == ([b"its turn\n"], [])


def test_a_pod_that_a_quota_refuses_waits_for_the_others_of_the_run(pods: Pods, namespace: Any) -> None:
    pool = Pool(provider="kubernetes", namespace=namespace.namespace)
    hard = {"pods": "1"}
    rule = {"metadata": {"name": "rule"}, "spec": {"hard": hard}}
    namespace.call("ruling", "create_namespaced_resource_quota", rule)
    until(lambda: namespace.call("looking", "read_namespaced_resource_quota", "rule")["status"].get("hard") == hard)
    said: list[bytes] = []

    def run(job_id: str) -> None:
        with pods.job(pool=pool, job_id=job_id) as job:
            said.append(job.run("echo its turn")[1])

    with pods.job(pool=pool):
        waiting = [threading.Thread(target=run, args=(name,)) for name in ("second", "third")]
        for one in waiting:
            one.start()
        until(lambda: sum(b"waits for other pods" in data for _, data in pods.heard) == 2)
    for one in waiting:
        one.join(120)
    assert said == [b"its turn\n"] * 2
    with pods.job(pool=pool) as first:
        first.session.keep(time.time() + 100)
        error = refused(pods, pool=pool, job_id="fourth")  # a kept pod is not waited for
    assert error.code == "CLUSTER_QUOTA"


def test_a_registry_that_the_nodes_do_not_reach(pods: Pods) -> None:
    error = refused(pods, image=Image(name="127.0.0.1:1/nothing/there:1"))
    assert error.code == "CLUSTER_IMAGE_UNAVAILABLE"
    assert "127.0.0.1:1: connect: connection refused" in error.message


def with_user(tmp_path: Path, user: dict[str, Any]) -> dict[str, str]:
    """The environment with a kubeconfig for this user."""
    environ = kubernetes.environ()
    given = yaml.safe_load(Path(environ["KUBECONFIG"]).read_text())
    context = next(one for one in given["contexts"] if one["name"] == given["current-context"])
    given["users"] = [{"name": context["context"]["user"], "user": user}]
    (tmp_path / "config").write_text(json.dumps(given))
    return {**environ, "KUBECONFIG": str(tmp_path / "config")}


def test_credentials_that_the_cluster_does_not_accept(tmp_path: Path) -> None:
    def unauthorized(user: dict[str, Any]) -> str:
        provider = providers.make("kubernetes", Setup(environ=with_user(tmp_path, user), config=Config()))
        with pytest.raises(LoomError) as raised:
            provider.check()
        list(provider.close())
        assert (raised.value.code, raised.value.exit_code) == ("CLUSTER_UNAUTHORIZED", 3)
        return raised.value.message

    assert "does not accept the credentials" in unauthorized({"token": "of-yesterday"})
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    signed = [
        "-subj",
        "/CN=me",
        "-not_before",
        "20200101000000Z",
        "-not_after",
        "20200201000000Z",
        "-out",
        str(certificate),
    ]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), *signed], check=True
    )
    expired = {
        f"client-{name}-data": base64.b64encode(path.read_bytes()).decode()
        for name, path in (("key", key), ("certificate", certificate))
    }
    assert "does not accept the credentials" in unauthorized(expired)
    program = {
        "apiVersion": "client.authentication.k8s.io/v1beta1",
        "command": "sh",
        "args": ["-c", "echo the session has expired >&2; exit 1"],
    }
    assert "the session has expired" in unauthorized({"exec": program})
