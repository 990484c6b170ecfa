"""Requests to a cluster that does not answer."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("kubernetes", reason="the extra `kubernetes` is not installed")
from loom.errors import EngineUnavailable
from loom.providers.kubernetes.cluster.client import Cluster


def test_who_waits_for_the_end_is_not_kept_by_a_cluster_that_does_not_answer() -> None:
    cluster = Cluster.of(None, {})
    asked = threading.Event()
    calls = []

    def ask() -> None:
        calls.append(1)
        asked.set()
        raise EngineUnavailable("it does not answer", code="CLUSTER_UNAVAILABLE")

    hurrying = threading.Thread(target=lambda: asked.wait(60) and cluster.hurry())
    hurrying.start()
    # The limit is longer than the test may take.
    with pytest.raises(EngineUnavailable):
        cluster.patiently("asking", ask, 3600.0)
    hurrying.join()
    cluster.at("other").hurry()
    before = len(calls)
    with pytest.raises(EngineUnavailable):
        cluster.at("other").patiently("removing", ask, 3600.0)
    assert len(calls) > before + 1  # what has to be removed is tried more than once
