"""The pods of a run as the watch sees them."""

import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

pytest.importorskip("kubernetes", reason="the extra `kubernetes` is not installed")
from loom.errors import EngineUnavailable
from loom.providers.kubernetes.cluster import pods as module
from loom.providers.kubernetes.cluster.pods import Pods


class Silent:
    """A watch that says nothing until it is closed."""

    def __init__(self) -> None:
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        self._closed.wait(60)
        return iter(())

    def close(self) -> None:
        self._closed.set()


class Listing:
    """A cluster whose list is a moment old when it arrives: a pod is made meanwhile."""

    pods: Pods

    def call(self, doing: str, method: str, **_: Any) -> dict[str, Any]:
        self.pods.put({"metadata": {"name": "new"}})
        return {"items": [], "metadata": {"resourceVersion": "1"}}

    def lines(self, doing: str, method: str, **_: Any) -> Silent:
        return Silent()


def test_a_pod_that_was_made_during_the_list_is_not_gone() -> None:
    cluster = Listing()
    pods = cluster.pods = Pods(cluster, "run=1")  # type: ignore[arg-type]
    pods.put({"metadata": {"name": "lost"}})
    assert pods.wait_for("lost", lambda pod: pod is None, 60.0) is None
    assert pods.wait_for("new", lambda pod: pod is not None, 60.0) == {"metadata": {"name": "new"}}
    pods.close()


def test_a_cluster_that_stays_silent_is_the_error_of_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lost(Listing):
        def call(self, doing: str, method: str, **_: Any) -> dict[str, Any]:
            raise EngineUnavailable("no answer", code="CLUSTER_UNAVAILABLE")

    monkeypatch.setattr(module, "_WATCH", msgspec.structs.replace(module._WATCH, limit_s=0.0))
    pods = Pods(Lost(), "run=1")  # type: ignore[arg-type]
    with pytest.raises(EngineUnavailable, match="no answer"):
        pods.wait_for("pod", lambda pod: pod is None, 60.0)
    pods.close()
