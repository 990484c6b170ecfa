"""Transfers to a pod: what arrives, and what becomes of one whose pod is lost."""

import hashlib
import os
import subprocess
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest

pytest.importorskip("kubernetes", reason="the extra `kubernetes` is not installed")
from loom.cancel import Cancel
from loom.errors import EngineUnavailable, ProviderError
from loom.providers.base import SessionRequest
from loom.providers.files import members_of, unpack
from loom.providers.kubernetes.cluster.client import Gone
from loom.providers.kubernetes.cluster.pods import PodLost
from loom.providers.kubernetes.session import exec as execs
from loom.providers.kubernetes.session import files
from loom.providers.kubernetes.session.files import PodFiles
from loom.storage.workspace import Skipped


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


class LocalExec:
    """Runs what would run in the pod's helper here."""

    def __init__(self, *given: Any, stdin: bool = False) -> None:
        pipe = subprocess.PIPE
        self._ran = subprocess.Popen(given[-1], stdin=pipe if stdin else subprocess.DEVNULL, stdout=pipe, stderr=pipe)

    def feed(self, content: Iterable[bytes]) -> threading.Thread:
        def send() -> None:
            assert self._ran.stdin is not None
            with self._ran.stdin as stdin:
                for piece in content:
                    stdin.write(piece)

        thread = threading.Thread(target=send)
        thread.start()
        return thread

    def output(self, **_: object) -> Iterator[tuple[str, bytes]]:
        assert self._ran.stdout is not None
        assert self._ran.stderr is not None
        for name, stream in (("stdout", self._ran.stdout), ("stderr", self._ran.stderr)):
            with stream:
                while piece := os.read(stream.fileno(), 1 << 16):
                    yield name, piece

    @property
    def code(self) -> int:
        return self._ran.wait()

    def close(self) -> None:
        self._ran.wait()


def state(root: Path) -> dict[str, tuple[int, int, object]]:
    found = {}
    for path in root.rglob("*"):
        status = path.lstat()
        if not path.is_fifo():
            content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
            found[str(path.relative_to(root))] = status.st_mode, status.st_uid, content
    return found


def test_a_transfer_that_its_pod_ended_names_the_end_of_the_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "Exec", LocalExec)
    monkeypatch.setattr(files, "_PACK", "exit 137")
    monkeypatch.setattr(files, "_UNPACK", "echo 1; cat >/dev/null; exit 137")
    transfers = (lambda pod: list(pod.get(["."], print)), lambda pod: pod.put(members_of(tmp_path, ["."])))
    for transfer in transfers:
        with pytest.raises(PodLost, match=r"was deleted while (reading from|writing to) the workspace"):
            transfer(files_in(Broken(there=False)))
    for transfer, how in zip(transfers, ("the stream was cut short", "exit code 137"), strict=True):
        with pytest.raises(ProviderError, match=f"the workspace of job job: {how}"):
            transfer(files_in(Broken(there=True)))


def test_files_go_to_the_pod_and_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (files, execs):
        monkeypatch.setattr(module, "Exec", LocalExec)
    source, job, back = (tmp_path / name for name in ("source", "job", "back"))
    for directory in (source / "out/deep", job, back):
        directory.mkdir(parents=True)
    (source / "out/tool").write_bytes(bytes(700_000) + b"end")
    (source / "out/tool").chmod(0o755)
    (source / "out/deep/same").hardlink_to(source / "out/tool")
    (source / "out/deep/up").symlink_to("../../..")
    (source / "alone").write_text("1")
    owner = (1234, 1234) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    request = SessionRequest(run_id="1", job_id="job", workspace=source, project_dir=str(job))
    pod = PodFiles(cast(Any, None), "pod", request, owner=owner)
    pod.put(members_of(source, ["out", "alone", "missing"]))
    assert state(job) == {path: (mode, owner[0], content) for path, (mode, _, content) in state(source).items()}
    assert (job / "out/tool").samefile(job / "out/deep/same")
    os.mkfifo(job / "out/fifo")
    skipped: list[Skipped] = []
    unpack(pod.get(["./out", "missing"], skipped.append), back)
    assert state(back) == {path: found for path, found in state(source).items() if path != "alone"}
    assert skipped == [Skipped.special("out/fifo", "FIFO")]
    assert list(pod.get(["missing"], skipped.append)) == []
    digest = hashlib.sha256(b"1").hexdigest()
    assert pod.prove(f"{digest}  alone\n".encode(), 1) == "sha256 of 1 files"
    (job / "alone").write_text("2")
    with pytest.raises(ProviderError, match="is not what was sent: alone: FAILED"):
        pod.prove(f"{digest}  alone\n".encode(), 1)
