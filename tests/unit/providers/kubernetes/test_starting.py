"""Why no node takes a pod, as schedulers of several versions say it."""

from __future__ import annotations

import pytest

pytest.importorskip("kubernetes", reason="the extra `kubernetes` is not installed")
from loom.providers.kubernetes.pod.starting import amount, no_node_ever, too_large

NO_USE = "preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."

NO_VICTIMS = "preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."


@pytest.mark.parametrize(
    ("why", "never"),
    [
        ("0/2 nodes are available: 2 node(s) didn't match node selector.", True),
        ("0/2 nodes are available: 2 node(s) didn't match Pod's node affinity.", True),
        (f"0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector. {NO_USE}", True),
        (f"0/2 nodes are available: 1 Insufficient cpu, 2 Insufficient memory. {NO_USE}", True),
        ("0/2 nodes are available: 2 Insufficient memory.", False),
        (f"0/2 nodes are available: 2 Insufficient cpu. {NO_VICTIMS}", False),
        (
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }. "
            + NO_USE,
            False,
        ),
        ("0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules.", False),
        ("no nodes available to schedule pods", False),
    ],
)
def test_a_reason_that_lasts_is_told_from_one_that_may_pass(why: str, never: bool) -> None:
    assert no_node_ever(why) is never


def test_what_no_node_has_is_named() -> None:
    def container(**requests: str) -> dict[str, object]:
        return {"resources": {"requests": requests}}

    pod = {
        "spec": {
            "containers": [container(cpu="3", memory="1Gi"), container(cpu="1500m", memory="1G"), {}],
            "initContainers": [container(memory="1Gi"), container(**{"nvidia.com/gpu": "1"})],
        }
    }
    assert too_large(pod, {"cpu": 4.5, "memory": 3e9, "nvidia.com/gpu": 1}) == []
    assert too_large(pod, {"cpu": 4.0, "memory": 1e9}) == [
        "it asks for 4.5 of cpu, and no node has more than 4",
        "it asks for 2.1 GB of memory, and no node has more than 1.0 GB",
        "it asks for 1 of nvidia.com/gpu, and no node has more than 0",
    ]
    assert too_large(pod, {}) == []


def test_quantities() -> None:
    assert [amount(text) for text in ("250m", "2", "1k", "1Ki", "1e3", "1.5Gi")] == [
        0.25,
        2,
        1000,
        1024,
        1000,
        1.5 * 2**30,
    ]
