"""Transfers to a pod that is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest

pytest.importorskip("kubernetes", reason="the extra `kubernetes` is not installed")
from loom.cancel import Cancel
from loom.errors import EngineUnavailable
from loom.providers.base import SessionRequest
from loom.providers.kubernetes.cluster.client import Gone
from loom.providers.kubernetes.cluster.pods import PodLost
from loom.providers.kubernetes.session.files import PodFiles


class Broken:
    """A cluster whose connections to pods break; `there`: whether it still has the pod."""

    def __init__(self, *, there: bool) -> None:
        self.there = there
        self.tries = 0

    def websocket(self, *_: object, **__: object) -> NoReturn:
        self.tries += 1
        raise EngineUnavailable("it does not answer", code="CLUSTER_UNAVAILABLE")

    def call(self, doing: str, method: str, *_: object, **__: object) -> dict[str, Any]:
        if method == "list_namespaced_event":
            return {"items": []}
        if not self.there:
            raise Gone("it is gone")
        return {"metadata": {"name": "pod"}, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}}


def files_in(cluster: Any, **more: Any) -> PodFiles:
    request = SessionRequest(
        run_id="1", job_id="job", workspace=Path("/w"), project_dir="/workspace", environment={}, shell=()
    )
    return PodFiles(cluster, "pod", request, **more)


@pytest.mark.parametrize(("known", "tries"), [(True, 0), (False, 1)])
def test_nothing_is_tried_again_with_a_pod_that_is_gone(known: bool, tries: int) -> None:
    cluster = Broken(there=False)
    with pytest.raises(PodLost, match="was deleted"):
        list(files_in(cluster, is_lost=lambda: known).get(["."], print))
    assert cluster.tries == tries


def test_nothing_is_tried_again_after_a_cancel() -> None:
    cluster, cancel = Broken(there=True), Cancel()
    cancel.request()
    with pytest.raises(EngineUnavailable):
        list(files_in(cluster, cancel=cancel).get(["."], print))
    assert cluster.tries == 1
