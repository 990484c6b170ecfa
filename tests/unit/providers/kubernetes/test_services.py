"""The logs of a job's services in its pod."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("kubernetes", reason="the extra `kubernetes` is not installed")
from loom.cancel import Cancel
from loom.errors import EngineUnavailable, ProviderError
from loom.plan.model import Image, Ready, Service
from loom.providers.kubernetes.cluster.pods import Pods
from loom.providers.kubernetes.pod.services import FollowedService, PodServices
from loom.providers.kubernetes.pod.spec import PodServiceContainer
from loom.providers.services import Output
from tests.support.waiting import until

RUNS = {"name": "svc-0-db", "state": {"running": {}}}


class Log:
    """A cluster with one log, of which a connection that follows brings only the first line."""

    LINES = (b"2026-01-01T10:00:00.000000001Z one", b"2026-01-01T10:00:00.000000002Z two")

    def __init__(self) -> None:
        self.closed = threading.Event()

    def lines(self, *_: str, follow: bool, **__: Any) -> Any:
        return Followed(self) if follow else iter(self.LINES)

    def call(self, *_: str, **__: Any) -> Any:
        return {"items": []}


class Followed:
    def __init__(self, log: Log) -> None:
        self.log = log

    def __iter__(self) -> Iterator[bytes]:
        yield self.log.LINES[0]
        assert self.log.closed.wait(60)
        raise EngineUnavailable("closed", code="CLUSTER_UNAVAILABLE")

    def close(self) -> None:
        self.log.closed.set()


def follower(log: Any, said: list[bytes], ready: Ready | None = None) -> FollowedService:
    service = Service(name="db", aliases=(), image=Image(name="db"), ready=ready or Ready())
    one = PodServiceContainer(service=service, container="svc-0-db", image="db")
    services = PodServices(
        network_id="",
        containers=(one,),
        images=(),
        variables={},
        output=Output(lambda _, data: said.append(data)),
        cancel=Cancel(),
        on_died=lambda *_: None,
    )
    pods = Pods(log, "")
    pods.put({"metadata": {"name": "pod"}, "status": {"containerStatuses": [RUNS]}})
    found = FollowedService(log, pods, "pod", one, services)
    found.follow()
    return found


def test_what_a_service_printed_before_the_end_is_there_also_where_it_had_not_arrived() -> None:
    said: list[bytes] = []
    following = follower(Log(), said)
    until(lambda: said)
    following.close()
    assert said == [b"db | one\n", b"db | two\n"]


@pytest.mark.parametrize(
    ("pattern", "expected"), [("one", "the cluster does not say why"), ("none", "no line that matches 'none'")]
)
def test_what_a_service_lacks_is_named(pattern: str, expected: str) -> None:
    said: list[bytes] = []
    following = follower(Log(), said, Ready(log=pattern))
    until(lambda: following.why() == expected)
    following.close()


def test_a_log_is_closed_while_it_is_asked_for() -> None:
    asked, closing, said = threading.Event(), threading.Event(), list[bytes]()

    class Slow(Log):
        def lines(self, *names: str, follow: bool, **more: Any) -> Any:
            asked.set()
            assert closing.wait(60)
            return super().lines(*names, follow=follow, **more)

    log = Slow()
    following = follower(log, said)
    assert asked.wait(60)
    following._closing.request()  # as `close` does, which finds no connection yet
    closing.set()
    following._thread.join(60)
    assert log.closed.is_set()
    assert said == [b"db | one\n", b"db | two\n"]


def test_a_log_that_may_not_be_read_is_told_once() -> None:
    class Forbidden(Log):
        def lines(self, *_: str, **__: Any) -> Any:
            raise ProviderError("pods/log is forbidden", code="CLUSTER_FORBIDDEN")

    said: list[bytes] = []
    following = follower(Forbidden(), said)
    following._thread.join(60)
    assert said == [b"db: its log can't be read: pods/log is forbidden\n"]
    following.close()


def test_a_log_goes_on_after_a_connection_that_broke() -> None:
    class Broken(Log):
        asked = 0

        def lines(self, *_: str, **__: Any) -> Any:
            self.asked += 1
            if self.asked == 1:
                raise EngineUnavailable("the kubelet starts again", code="CLUSTER_UNAVAILABLE")
            return (line for line in self.LINES)

    said: list[bytes] = []
    following = follower(Broken(), said)
    following._thread.join(60)
    assert said == [b"db | one\n", b"db | two\n"]
    following.close()
