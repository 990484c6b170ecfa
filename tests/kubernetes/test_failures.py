"""Failures of a cluster, provoked for real: the error names the reason, and `loom doctor` finds it before a run where it can."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from loom.cancel import Cancel
from loom.errors import LoomError
from loom.plan.model import Resources
from loom.pools import Pool
from loom.providers.base import Command
from loom.providers.kubernetes.checkup import findings
from tests.support import kubernetes
from tests.support.effort import LONG
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.kubernetes.conftest import Job, Pods

pytestmark = [pytest.mark.kubernetes, pytest.mark.slow]
long = pytest.mark.skipif(not LONG, reason="takes long: LOOM_TEST_LONG=1 runs it")


def refused(pods: Pods, **changes: Any) -> LoomError:
    with pytest.raises(LoomError) as raised, pods.job(**changes):
        pass
    assert raised.value.exit_code == 3
    return raised.value


def lost(job: Job, disturb: Callable[[], object]) -> LoomError:
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
    assert (error.code, "must specify limits.memory" in error.message) == ("CLUSTER_QUOTA", True)
    assert "must specify limits.memory" in doctor()

    limits = {"limits": [{"type": "Container", "max": {"memory": "64Mi"}, "default": {"memory": "32Mi"}}]}
    namespace.call("ruling", "create_namespaced_limit_range", {"metadata": {"name": "rule"}, "spec": limits})
    error = until(lambda: refused(pods, pool=pool, resources=Resources(memory=128 << 20)))
    assert (error.code, "LimitRange does not allow such a pod: maximum memory usage" in error.message) == (
        "CLUSTER_POD_REFUSED",
        True,
    )


def test_a_namespace_that_is_deleted_in_mid_run(pods: Pods, namespace: Any, cluster: Any) -> None:
    pool = Pool(provider="kubernetes", namespace=namespace.namespace)
    with pods.job(pool=pool) as job:
        error = lost(job, lambda: cluster.call("removing", "delete_namespace", namespace.namespace))
        assert (error.code, "was deleted" in error.message) == ("POD_LOST", True)
        again = refused(pods, pool=pool)
    assert again.code == "CLUSTER_NAMESPACE_UNKNOWN"


def test_a_pod_that_is_evicted_by_the_api(pods: Pods, cluster: Any) -> None:
    evict = cluster.api.create_namespaced_pod_eviction
    with pods.job() as job:
        body = {"metadata": {"name": job.pod, "namespace": cluster.namespace}}
        error = lost(job, lambda: evict(job.pod, cluster.namespace, body, _preload_content=False))
    # Clusters before 1.26 don't say that it was an eviction.
    assert error.code in ("POD_LOST", "POD_EVICTED")
    assert "was deleted" in error.message or "taken away" in error.message


@long
def test_a_pod_that_its_node_evicts(pods: Pods) -> None:
    template = {"spec": {"containers": [{"name": "job", "resources": {"limits": {"ephemeral-storage": "4Mi"}}}]}}
    with pods.job(pool=Pool(provider="kubernetes", pod_template=template)) as job, pytest.raises(LoomError) as raised:
        job.run("head -c 20000000 /dev/zero >/big; sleep 600", timeout_s=100)
    assert raised.value.code == "POD_EVICTED"
    assert "ephemeral local storage" in raised.value.message
