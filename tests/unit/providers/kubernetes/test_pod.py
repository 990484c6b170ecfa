"""The specification of a job's pod."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("kubernetes", reason="the extra `kubernetes` is not installed")
from loom.plan.model import Image, Service
from loom.pools import Pool
from loom.providers.base import SessionRequest
from loom.providers.kubernetes.images import PodImage
from loom.providers.kubernetes.pod import specification
from loom.providers.kubernetes.services import placed


def test_a_confined_pod_keeps_to_the_level_restricted() -> None:
    template = {"spec": {"securityContext": {"runAsNonRoot": True, "runAsUser": 1000}}}
    request = SessionRequest(
        run_id="1",
        job_id="job",
        workspace=Path("/w"),
        project_dir="/workspace",
        environment={},
        shell=(),
        pool=Pool(provider="kubernetes", pod_template=template),
    )
    image = Image(name="image")
    services = (Service(name="first", aliases=(), image=image, once=True), Service(name="db", aliases=(), image=image))
    images = [PodImage(name="image", image_id="image")] * 2
    spec = specification(request, "name", {}, placed(services, images), image="image", pid=1)["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    containers = [*spec["containers"], *spec["initContainers"]]
    assert len(containers) == 4
    for container in containers:
        rights = container["securityContext"]
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert rights.get("runAsUser", 1000) != 0
    assert all(set(volume) == {"name", "emptyDir"} for volume in spec["volumes"])
