"""A snapshot goes to a real registry once: a second push sends what changed, and the engine can read the image."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import pytest

from loom.cancel import Cancel
from loom.pools import Pool
from loom.providers.base import SessionRequest
from loom.providers.kubernetes.images.registry import Repository
from loom.providers.kubernetes.images.snapshot import Pushed, SnapshotImages
from tests.support.oci import push_busybox

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(
        not Path("/bin/busybox").exists() or shutil.which("docker-registry") is None,
        reason="no static busybox, or no docker-registry (Debian's packages)",
    ),
]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    root = tmp_path / "workspace"
    for number in range(100):
        path = root / f"d{number // 10}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(str(number).encode() * 70_000)
    (root / "run").write_text("#!/bin/sh\n")
    (root / "run").chmod(0o755)
    return root


@pytest.fixture
def push(registry: Any, tmp_path: Path, workspace: Path) -> Callable[[str], Pushed]:
    base = push_busybox(f"http://{registry.host}/base")

    def push(folder: str) -> Pushed:
        pool = Pool(provider="kubernetes", registry=f"http://{registry.host}/snapshots", registry_base=base)
        images = SnapshotImages(pool, {}, tmp_path / folder)
        request = SessionRequest(
            run_id="1", job_id="job", workspace=workspace, project_dir="/workspace", environment={}, shell=()
        )
        said: list[bytes] = []
        first = images.of(request, lambda _, data: said.append(data), Cancel())
        assert images.of(request, lambda _, data: said.append(data), Cancel()) is first
        assert len(said) == 1
        return first

    return push


def test_a_second_push_sends_what_changed(push: Callable[[str], Pushed], workspace: Path) -> None:
    first = push("one")
    assert first.files == 101
    again = push("one")
    assert (again.sent, again.reference) == (0, first.reference)
    assert push("another machine").sent == 0
    (workspace / "d5/f55").write_text("another")
    changed = push("one")
    assert changed.reference != first.reference
    assert 0 < changed.sent < first.sent


def test_the_image_has_the_files(
    push: Callable[[str], Pushed], client: docker.DockerClient, remove: Callable[[str], None]
) -> None:
    reference = push("one").reference
    try:
        client.images.pull(reference)
        script = "cd /loom-snapshot/workspace; find . -type f | wc -l; ls -l run; cat d0/f7 | sha256sum"
        said = client.containers.run(reference, ["sh", "-c", script.replace("| wc -l", "")], remove=True).decode()
    finally:
        remove(reference)
    assert said.count("\n") == 103
    assert "-rwxr-xr-x" in said


def test_a_registry_with_a_password(guarded: Any, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="refuses HEAD") as raised:
        Repository(f"http://{guarded.host}/private", {"HOME": str(tmp_path)}).has(f"sha256:{'0' * 64}")
    assert getattr(raised.value, "code", "") == "REGISTRY_REFUSED"
    (tmp_path / ".docker").mkdir()
    auth = base64.b64encode(b"loom:open-sesame").decode()
    (tmp_path / ".docker/config.json").write_text(json.dumps({"auths": {guarded.host: {"auth": auth}}}))
    assert not Repository(f"http://{guarded.host}/private", {"HOME": str(tmp_path)}).has(f"sha256:{'0' * 64}")


def test_a_registry_that_is_not_there(free_port: int) -> None:
    with pytest.raises(Exception, match="does not answer") as raised:
        Repository(f"http://localhost:{free_port}/none", {}).has(f"sha256:{'0' * 64}")
    assert getattr(raised.value, "code", "") == "REGISTRY_UNAVAILABLE"
