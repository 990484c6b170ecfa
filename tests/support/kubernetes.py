"""The cluster of the tests: that of `LOOM_TEST_KUBECONFIG`."""

import os
from collections.abc import Mapping
from typing import Any

import pytest

IMAGE = os.environ.get("LOOM_TEST_KUBERNETES_IMAGE", "debian:trixie-slim")
"""A Debian that the cluster's nodes have or can pull."""
BUSYBOX = "k8s.local/busybox:1" if "LOOM_TEST_CLUSTER_DIR" in os.environ else "busybox:stable-musl"
"""An image without any program but BusyBox."""
NOWHERE = {"spec": {"nodeSelector": {"there": "is-none"}}}
"""A pool's template that no node meets."""


def environ() -> Mapping[str, str]:
    """The environment for a provider or a loom that uses it. Skips the test where there is no cluster."""
    kubeconfig = os.environ.get("LOOM_TEST_KUBECONFIG")
    if not kubeconfig:
        pytest.skip(
            "needs a cluster: LOOM_TEST_KUBECONFIG names its kubeconfig (scripts/test-kubernetes says how to get one)"
        )
    pytest.importorskip("kubernetes")
    return {**os.environ, "KUBECONFIG": kubeconfig}


def cluster() -> Any:
    from loom.providers.kubernetes.cluster.client import Cluster

    return Cluster.of(None, environ())


def pods_of(run_id: str) -> list[str]:
    """The names of a run's pods that are there and not on their way out."""
    from loom.providers.kubernetes.pod.spec import selector

    there = cluster()
    try:
        listed = there.call("looking for pods", "list_namespaced_pod", label_selector=selector(run_id))
    finally:
        there.close()
    return [pod["metadata"]["name"] for pod in listed["items"] if not pod["metadata"].get("deletionTimestamp")]
