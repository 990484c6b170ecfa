"""A snapshot goes to a real registry once: a second push sends what changed, and the engine reads exactly this tree."""

import base64
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import docker
import pytest

from loom.cancel import Cancel
from loom.config.pools import Pool
from loom.errors import ProviderError
from loom.providers.base import SessionRequest
from loom.providers.kubernetes.images import snapshot
from loom.providers.kubernetes.images.registry import Repository
from loom.providers.kubernetes.images.snapshot import Pushed, SnapshotImages, copying
from loom.storage.tar import CheckedStream
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
def push(registry: Any, tmp_path: Path, workspace: Path) -> Callable[..., Pushed | None]:
    base = push_busybox(f"http://{registry.host}/base")
    objects = tmp_path / "objects"
    objects.mkdir()
    (objects / "pack").write_bytes(os.urandom(500_000))

    def push(said: list[str], repository: str = "snapshots", cancel: Cancel | None = None) -> Pushed | None:
        pool = Pool(provider="kubernetes", registry=f"http://{registry.host}/{repository}", registry_base=base)
        images = SnapshotImages(pool, {}, tmp_path / "kept/pushed.json")
        request = SessionRequest(
            run_id="1",
            job_id="job",
            workspace=workspace,
            project_dir="/workspace",
            read_only_mounts=(objects,),
        )
        first, again = (
            images.of(request, lambda _, data: said.append(data.decode()), said.append, one)
            for one in (cancel or Cancel(), Cancel())
        )
        assert again is first
        assert len(said) == 1
        return first

    return push


def test_a_second_push_sends_what_changed(
    push: Callable[..., Any], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = push([])
    assert first.files == 102
    assert first.sent > 600_000
    for path in (workspace / "d5", workspace / ".git/HEAD", workspace.parent / "objects/pack"):
        os.utime(path, (1, 1))  # loom and git renew these times
    again = push([])
    assert (again.sent, again.reference) == (0, first.reference)
    (workspace / "d5/f55").write_text("another")
    changed = push([])
    assert changed.reference != first.reference
    assert 0 < changed.sent < 5_000
    assert push([], "others").sent > 600_000  # as one that has removed the last push
    monkeypatch.setattr(snapshot, "_MOST_DIFFERENCES", 2)
    for number, is_whole in enumerate((False, False, True, False)):
        (workspace / "d5/f55").write_text(str(number))
        assert (push([], "others").sent > 90_000) == is_whole
    for number in range(70):
        (workspace / f"new{number}").write_bytes(os.urandom(5_000))
    assert 440_000 < push([], "others").sent < 500_000  # all files, and not the objects: more than half has changed


@pytest.mark.parametrize("where", ["reading", "sending"])
def test_a_cancel_ends_a_push_in_the_midst_of_a_file(
    push: Callable[..., Any], workspace: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    push([])
    (workspace / "large").write_bytes(os.urandom(5 << 20))
    cancel, taken = Cancel(), 0
    read = CheckedStream.read

    def reading(file: Any, size: int = -1) -> bytes:
        nonlocal taken
        data = read(file, size)
        taken += len(data) if (size <= 1 << 16) == (where == "sending") else 0
        if taken > 2 << 20:
            cancel.request()
        return data

    monkeypatch.setattr(CheckedStream, "read", reading)
    with pytest.raises(ProviderError, match="canceled while the snapshot was pushed"):
        push([], cancel=cancel)
    assert 2 << 20 < taken < 4 << 20
    monkeypatch.undo()
    assert push([]).sent > 5 << 20


KINDS = ("nothing", "file", "program", "link", "link to a directory", "directory", "deep", "shallow")


def make(kind: str, path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    match kind:
        case "file" | "program":
            path.write_text(path.name)
            path.chmod(0o755 if kind == "program" else 0o644)
        case "link" | "link to a directory":
            path.symlink_to("d0/f0" if kind == "link" else "d0")
        case "directory" | "deep" | "shallow":
            path.mkdir(mode=0o700 if kind == "directory" else 0o755)
        case _:
            pass
    if kind == "deep":
        (path / "name").mkdir(0o750)
        (path / "name/file").write_text("deep")
    elif kind == "shallow":
        (path / "name").write_text("a file")
        (path / "here").symlink_to(".")


def test_the_image_has_exactly_this_tree(
    push: Callable[..., Any], client: docker.DockerClient, remove: Callable[[str], None], workspace: Path
) -> None:
    (workspace / "d7").chmod(0o700)
    (workspace / "d8").chmod(0o700)
    for turn in range(3):
        (workspace / "d1/in.d").mkdir(exist_ok=True)
        for number, kinds in enumerate(product(KINDS, KINDS)):
            for folder in (workspace, workspace / "d1/in.d"):
                make(kinds[turn % 2], folder / str(number))
        (workspace / "d2").chmod(0o700 if turn % 2 else 0o755)
        os.utime(workspace / "d3/f33", (1, 1))
        (workspace / f"d7/f7{turn}").unlink()
        (workspace / "d8/f88").write_text(str(turn))
        shutil.rmtree(workspace / "d9", ignore_errors=True)
        pushed = push([])
        assert (pushed.sent > 90_000) == (turn == 0)
        if turn > 0:
            assert in_image(client, remove, pushed) == on_disk(workspace)
            files = [path for path in workspace.rglob("*") if path.is_file() and not path.is_symlink()]
            assert len(pushed.digests.splitlines()) == pushed.files == len(files)
    for name in (".wh.d1", "d0/.wh..wh..opq"):
        (workspace / name).write_text("a name of layers")
        said: list[str] = []
        assert push(said) is None
        assert said[0].startswith(f"{name}: in an image")
        (workspace / name).unlink()
    (workspace / "d1/f12").unlink()
    (workspace / "d1/f12").hardlink_to(workspace / "d1/f10")
    push([])
    (workspace / "d1/f10").write_text("both")
    assert in_image(client, remove, push([])) == on_disk(workspace)


def in_image(client: docker.DockerClient, remove: Callable[[str], None], pushed: Pushed) -> dict[str, object]:
    """Return what a pod's init container copies from the image."""
    init = copying(pushed, dict(zip(pushed.paths, ("store", "workspace"), strict=True)))
    script = "\n".join(["mkdir -p /loom-volumes/store /loom-volumes/workspace", *init["command"][2:]])
    try:
        client.images.pull(pushed.reference)
        container = client.containers.run(pushed.reference, ["sh", "-ec", script], detach=True)
        try:
            assert container.wait()["StatusCode"] == 0
            archive = b"".join(container.get_archive("/loom-volumes")[0])
        finally:
            container.remove(force=True)
    finally:
        remove(pushed.reference)
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        opened.extractall(folder, filter="fully_trusted")
        assert (Path(folder) / "loom-volumes/store/pack").stat().st_size == 500_000
        return on_disk(Path(folder, "loom-volumes/workspace"))


def on_disk(root: Path) -> dict[str, object]:
    """Return each path below with its mode, its time if it is a file, and its target or content."""
    found: dict[str, object] = {}
    for path in root.rglob("*"):
        status, link = path.lstat(), path.is_symlink()
        plain = path.is_file() and not link
        content = path.readlink() if link else path.read_bytes() if plain else None
        found[path.relative_to(root).as_posix()] = (oct(status.st_mode), int(status.st_mtime) if plain else 0, content)
    return found


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
