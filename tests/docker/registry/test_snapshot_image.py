"""A snapshot goes to a real registry once: a second push sends what changed, and the engine can read the image."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import pytest

from loom.cancel import Cancel
from loom.config.pools import Pool
from loom.providers.base import SessionRequest
from loom.providers.kubernetes.images.registry import Repository
from loom.providers.kubernetes.images.snapshot import Pushed, SnapshotImages, copying
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
        path.write_bytes(os.urandom(1000))
    (root / "run").write_text("#!/bin/sh\n")
    (root / "run").chmod(0o755)
    (root / "link").symlink_to("d0/f0")
    os.utime(root / "d0/f0", (1, 1_000_000_000))
    (root / ".git").mkdir()
    (root / ".git/HEAD").write_text("ref: refs/heads/main\n")
    return root


@pytest.fixture
def push(registry: Any, tmp_path: Path, workspace: Path) -> Callable[[], Pushed]:
    base = push_busybox(f"http://{registry.host}/base")
    objects = tmp_path / "objects"
    objects.mkdir()
    (objects / "pack").write_bytes(os.urandom(500_000))

    def push() -> Pushed:
        pool = Pool(provider="kubernetes", registry=f"http://{registry.host}/snapshots", registry_base=base)
        images = SnapshotImages(pool, {})
        request = SessionRequest(
            run_id="1",
            job_id="job",
            workspace=workspace,
            project_dir="/workspace",
            read_only_mounts=(objects,),
        )
        said: list[bytes] = []
        first = images.of(request, lambda _, data: said.append(data), Cancel())
        assert first is not None
        assert images.of(request, lambda _, data: said.append(data), Cancel()) is first
        assert len(said) == 1
        return first

    return push


def test_a_second_push_sends_what_changed(push: Callable[[], Pushed], workspace: Path) -> None:
    first = push()
    assert first.files == 102
    assert first.sent > 600_000
    os.utime(workspace / "d5", (1, 1))  # a directory is new in each run
    again = push()
    assert (again.sent, again.reference) == (0, first.reference)
    (workspace / ".git/HEAD").write_text("ref: refs/heads/other\n")
    assert 0 < push().sent < 10_000
    (workspace / "d5/f55").write_text("another")
    changed = push()
    assert changed.reference != first.reference
    assert 90_000 < changed.sent < 200_000


def test_the_image_has_the_files(
    push: Callable[[], Pushed], client: docker.DockerClient, remove: Callable[[str], None], workspace: Path
) -> None:
    pushed = push()
    init = copying(pushed, dict(zip(pushed.paths, ("store", "workspace"), strict=True)))
    lines = ["mkdir -p /loom-volumes/store /loom-volumes/workspace", *init["command"][2:], "cd /loom-volumes"]
    lines += [
        "ls store",
        "ls -l workspace/run workspace/link",
        "cd workspace; find . -type f | wc -l",
        "sha256sum -c -",
    ]
    try:
        client.images.pull(pushed.reference)
        script = "\n".join(lines) + f" <<'E'\n{pushed.digests.decode()}E\n"
        said = client.containers.run(pushed.reference, ["sh", "-ec", script], remove=True).decode()
    finally:
        remove(pushed.reference)
    assert said.startswith("pack\n")
    assert re.search(r"^-rwxr-xr-x.* workspace/run$", said, re.MULTILINE)
    assert "workspace/link -> d0/f0" in said
    assert re.search(r"^102$", said, re.MULTILINE)
    assert said.count(": OK") == 102
    assert pushed.digests.count(b"\n") == 102


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
