"""Devices and GPUs in the form that an engine expects, and the messages of an engine without them."""

from pathlib import Path
from typing import Any

import pytest

from loom.errors import ProviderError
from loom.plan.model import Resources
from loom.providers.base import SessionRequest
from loom.providers.docker.container.create import device_requests_of, devices_of
from loom.providers.docker.container.refusals import known_reason


@pytest.mark.parametrize(
    ("written", "there", "inside", "rights"),
    [
        ("/dev/fuse", "/dev/fuse", "/dev/fuse", "rwm"),
        ("/dev/fuse:r", "/dev/fuse", "/dev/fuse", "r"),
        ("/dev/fuse:/dev/mine", "/dev/fuse", "/dev/mine", "rwm"),
        ("/dev/fuse:/dev/mine:rw", "/dev/fuse", "/dev/mine", "rw"),
    ],
)
def test_a_device_is_told_as_docker_takes_it(written: str, there: str, inside: str, rights: str) -> None:
    assert devices_of(Resources(devices=(written,))) == [
        {"PathOnHost": there, "PathInContainer": inside, "CgroupPermissions": rights}
    ]


@pytest.mark.parametrize(
    ("gpus", "docker"), [("all", {"Count": -1}), ("2", {"Count": 2}), ("device=1,3", {"DeviceIDs": ["1", "3"]})]
)
def test_gpus_are_told_to_docker_and_refused_by_podman(gpus: str, docker: dict[str, Any]) -> None:
    wanted = Resources(gpus=gpus)
    assert device_requests_of(wanted, podman=False) == [
        {"Driver": "", "Capabilities": [["gpu"]], "Options": {}, **docker}
    ]
    with pytest.raises(ProviderError, match="podman knows GPUs by the names of CDI"):
        device_requests_of(wanted, podman=True)


def test_what_a_vendor_describes_goes_by_its_name() -> None:
    wanted = Resources(devices=("vendor.com/net=0", "/dev/fuse"))
    assert device_requests_of(wanted, podman=False) == [{"Driver": "cdi", "DeviceIDs": ["vendor.com/net=0"]}]
    assert [device["PathOnHost"] for device in devices_of(wanted) or ()] == ["/dev/fuse"]
    assert devices_of(Resources()) is device_requests_of(Resources(), podman=True) is None


@pytest.mark.parametrize(
    ("resources", "said", "key"),
    [
        ({"gpus": "all"}, 'could not select device driver "" with capabilities: [[gpu]]', "gpus"),
        ({"devices": ("/dev/nope:r",)}, 'custom device "/dev/nope": no such file or directory', "devices"),
        ({"devices": ("v.com/x=1",)}, 'could not select device driver "cdi"', "devices"),
        ({"devices": ("v.com/x=1",)}, "unresolvable CDI devices v.com/x=1", "devices"),
        ({"devices": ("/dev/a:/dev/b:rw",)}, "creating device nodes: mount /dev/b:/x", "devices"),
    ],
)
def test_what_the_engine_has_not_is_named_with_the_workflows_line(
    resources: dict[str, Any], said: str, key: str
) -> None:
    sources = dict.fromkeys(("devices", "gpus"), "workflow.yml:7:5")
    request = SessionRequest(
        run_id="1",
        job_id="a",
        workspace=Path("/w"),
        project_dir="/workspace",
        resources=Resources(**resources, sources=sources),
    )
    error = known_reason(request, said)
    assert error is not None
    assert error.message == f"workflow.yml:7:5: the engine can't give job a the `{key}` that it asks for: {said}"
    assert (error.code, error.exit_code) == ("DEVICE_UNAVAILABLE", 3)
    assert known_reason(request, "no space left on device") is None
