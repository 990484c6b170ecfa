"""The devices that a job gets from the engine's machine, and the messages about those that are missing."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
import pytest

from loom.errors import ProviderError
from loom.plan.model import Resources
from loom.providers.docker.container.create import host_config
from loom.providers.docker.container.mounts import BindMount
from loom.providers.docker.container.ownership import Workspaces
from loom.providers.docker.engine.client import Traits

if TYPE_CHECKING:
    from conftest import Site

pytestmark = pytest.mark.docker

FUSE = Path("/dev/fuse")
NEEDS_FUSE = pytest.mark.skipif(
    not FUSE.exists() or not stat.S_ISCHR(FUSE.stat().st_mode), reason="looks at /dev/fuse, which is not here"
)
SOURCES = {"gpus": "workflow:7:5", "devices": "workflow:8:5"}


@NEEDS_FUSE
@pytest.mark.parametrize(
    ("device", "path", "readable", "writable"),
    [
        ("/dev/fuse", "/dev/fuse", True, True),
        ("/dev/fuse:r", "/dev/fuse", True, False),
        ("/dev/fuse:/dev/mine:w", "/dev/mine", False, True),
    ],
)
def test_a_device_can_be_used_as_far_as_was_said(
    docker_site: Site, device: str, path: str, readable: bool, writable: bool
) -> None:
    with docker_site.job(resources=Resources(devices=(device,))) as job:
        assert (job.run(f": <{path}").code == 0) == readable
        assert (job.run(f": >{path}").code == 0) == writable


@NEEDS_FUSE
def test_no_device_is_there_that_was_not_asked_for(docker_site: Site) -> None:
    with docker_site.job() as job:
        assert job.run("test ! -e /dev/fuse").code == 0


def test_a_device_that_is_not_there_is_named(docker_site: Site) -> None:
    with pytest.raises(
        ProviderError, match=r"workflow:8:5: the engine can't give job job the `devices` that .*/dev/no-such"
    ) as caught:
        docker_site.job(resources=Resources(devices=("/dev/no-such",), sources=SOURCES)).__enter__()
    assert caught.value.code == "DEVICE_UNAVAILABLE"


def has_gpus(engine: docker.DockerClient) -> bool:
    return "nvidia" in engine.info()["Runtimes"] or Path("/dev/nvidiactl").exists()


def test_gpus_on_an_engine_without_any(docker_site: Site, engine: docker.DockerClient) -> None:
    if has_gpus(engine):
        pytest.skip("this engine has GPUs")
    with pytest.raises(ProviderError, match="workflow:7:5: the engine can't give job job the `gpus`") as caught:
        docker_site.job(resources=Resources(gpus="all", sources=SOURCES)).__enter__()
    assert caught.value.code == "DEVICE_UNAVAILABLE"


def test_podman_does_not_leave_gpus_out_in_silence(podman_site: Site) -> None:
    with pytest.raises(ProviderError, match="workflow:7:5: podman knows GPUs by the names of CDI alone"):
        podman_site.job(resources=Resources(gpus="1", sources=SOURCES)).__enter__()


def test_what_reaches_the_engine(docker_site: Site, engine: docker.DockerClient) -> None:
    request = docker_site.request(
        resources=Resources(devices=("/dev/null:/dev/mine:r", "v.com/net=0"), gpus="device=0,2")
    )
    mount = BindMount(request, Workspaces())
    api: Any = engine.api
    wanted = api.create_host_config(**host_config(request, mount, Traits(engine)))
    made = api.create_container(docker_site.image, ["true"], labels={"loom.run": request.run_id}, host_config=wanted)[
        "Id"
    ]
    try:
        found = api.inspect_container(made)["HostConfig"]
        assert found["Devices"] == [
            {"PathOnHost": "/dev/null", "PathInContainer": "/dev/mine", "CgroupPermissions": "r"}
        ]
        gpus, described = found["DeviceRequests"]
        assert (gpus["DeviceIDs"], gpus["Capabilities"]) == (["0", "2"], [["gpu"]])
        assert (described["Driver"], described["DeviceIDs"]) == ("cdi", ["v.com/net=0"])
    finally:
        api.remove_container(made, force=True)


def test_the_socket_is_the_engines_own(docker_site: Site) -> None:
    if not Path(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")).is_socket():
        pytest.skip("the engine has no socket on this machine")
    with docker_site.job(docker_socket=True) as job:
        assert job.run("test -S /var/run/docker.sock").code == 0
