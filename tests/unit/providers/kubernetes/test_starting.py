"""Why no node takes a pod, as schedulers of several versions say it."""

from __future__ import annotations

import pytest

pytest.importorskip("kubernetes", reason="the extra `kubernetes` is not installed")
from loom.providers.kubernetes.pod.spec import amount
from loom.providers.kubernetes.pod.starting import no_node_ever

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


def test_quantities() -> None:
    assert [amount(text) for text in ("250m", "2", "1k", "1Ki", "1e3", "1.5Gi")] == [
        0.25,
        2,
        1000,
        1024,
        1000,
        1.5 * 2**30,
    ]
