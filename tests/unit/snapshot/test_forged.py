"""Whoever can only write into a workspace names no program that `loom verify` runs, and forges no verdict."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loom.errors import SnapshotError
from loom.snapshot import verify

from .conftest import ENVIRONMENT, Repo, Snap, proved

ROOT = Path(__file__).parents[3]
Forge = Callable[[dict[str, Any], Path], None]


def text(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


def evil(document: dict[str, Any], place: Path) -> None:
    """A filter for every file, as a manifest names it."""
    document["own_attributes"] = text("* filter=e\n")
    document["config"].append(["filter.e.clean", text(f"touch {place}/ran; cat")])


def upper_case(document: dict[str, Any], place: Path) -> None:
    document["own_attributes"] = text("* filter=e\n")
    document["config"].append(["Filter.e.clean", text(f"touch {place}/ran; cat")])


def included(document: dict[str, Any], place: Path) -> None:
    (place / "included").write_text(f'[filter "e"]\n\tclean = "touch {place}/ran; cat"\n')
    document["own_attributes"] = text("* filter=e\n")
    document["config"].append(["include.path", text(f"{place}/included")])


def as_git_lfs(document: dict[str, Any], place: Path) -> None:
    document["own_attributes"] = text("* filter=lfs\n")
    document["config"].append(["filter.lfs.clean", text(f"git-lfs clean; touch {place}/ran; cat")])


def in_the_format(document: dict[str, Any], place: Path) -> None:
    document["own_attributes"] = text("* filter=e\n")
    document["object_format"] = f'sha1\n[filter "e"]\n\tclean = "touch {place}/ran; cat"'


def fetched(document: dict[str, Any], place: Path) -> None:
    document["config"] += [
        ["remote.x.promisor", text("true")],
        ["remote.x.url", text(f"ext::sh -c touch%% {place}/ran")],
        ["protocol.ext.allow", text("always")],
    ]
    document["head_sha"] = "1234567890" * 4


def outside(document: dict[str, Any], place: Path) -> None:
    document["submodules"] = [[text("../../../etc"), document["head_sha"], document["tree_sha"], []]]


def a_switch(document: dict[str, Any], place: Path) -> None:
    document["head_sha"] = "--upload-pack=touch"


def no_number(document: dict[str, Any], place: Path) -> None:
    document["config"].append([7, ""])


def a_nul(document: dict[str, Any], place: Path) -> None:
    document["config"].append(["core.eol", text("a\0b")])


@pytest.mark.parametrize(
    "forge", [evil, upper_case, included, as_git_lfs, in_the_format, fetched, outside, a_switch, no_number, a_nul]
)
@pytest.mark.parametrize("believed", [False, True])
def test_a_forged_manifest(work: Repo, snap: Snap, tmp_path: Path, forge: Forge, believed: bool) -> None:
    """Also one that is believed: other commands are told their record by whoever asks."""
    snapshot = snap(work)
    manifest = snapshot.path / ".git/loom-snapshot.json"
    document = json.loads(manifest.read_bytes())
    forge(document, tmp_path)
    manifest.write_text(json.dumps(document))
    (snapshot.path / "README").write_text("changed\n")
    try:
        verified = verify(snapshot.path, environ=ENVIRONMENT, manifest_file=manifest if believed else None)
        assert (verified.same, verified.believed) == (False, believed)
    except SnapshotError as error:
        assert error.hint  # noqa: PT017  either is right
    assert not (tmp_path / "ran").exists()


def test_a_manifest_that_is_no_manifest(work: Repo, snap: Snap) -> None:
    snapshot = snap(work)
    for content in ("[" * 200_000, "null", "[]", '{"kind": "loom-snapshot"}'):
        (snapshot.path / ".git/loom-snapshot.json").write_text(content)
        with pytest.raises(SnapshotError) as caught:
            verify(snapshot.path, environ=ENVIRONMENT)
        assert caught.value.hint


class Place:
    """A checkout with a plain snapshot, and the commands as a user would give them."""

    def __init__(self, work: Repo, tmp_path: Path) -> None:
        self.work = work
        self.tmp = tmp_path / "tmp"
        self.tmp.mkdir()
        self.state = tmp_path / ".local/state/loom"
        self.environ = work.environ | {"TMPDIR": str(self.tmp), "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
        self.workspace = self.snapshot()

    def snapshot(self) -> Path:
        return Path(json.loads(self.loom("snapshot", "--json").stdout)["path"])

    def loom(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "loom", *arguments]
        return subprocess.run(
            command,
            cwd=cwd or self.work.root,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def record(self, root: Path, workspace: Path | str) -> None:
        """One that looks like a run's, with a manifest of the attacker's."""
        (root / "logs/9").mkdir(parents=True)
        (root / "logs/9/events.jsonl").touch()
        (root / "run.json").write_text(json.dumps({"workspace": str(workspace)}))
        document = json.loads((self.workspace / ".git/loom-snapshot.json").read_bytes())
        evil(document, self.tmp)
        (root / "snapshot.json").write_text(json.dumps(document))

    def changed(self, *, cwd: Path | None = None, said: str = "") -> None:
        """Whatever was planted: the change is seen, and nothing ran."""
        (self.workspace / "README").write_text("changed\n")
        done = self.loom("verify", said or str(self.workspace), cwd=cwd)
        assert (done.returncode, "modified     README" in done.stdout) == (1, True), done.stdout + done.stderr
        assert not (self.tmp / "ran").exists()


@pytest.fixture
def place(work: Repo, tmp_path: Path) -> Place:
    return Place(work, tmp_path)


def test_records_in_the_workspace(place: Place) -> None:
    place.record(place.workspace, f"{place.tmp}/../tmp/{place.workspace.name}")
    place.changed()


def test_records_that_name_another_workspace(place: Place) -> None:
    place.record(place.workspace, place.snapshot())
    place.changed()


def test_records_beside_the_workspace(place: Place) -> None:
    place.record(place.tmp, place.workspace)
    place.changed()


def test_records_behind_the_link_in_a_workspace(place: Place) -> None:
    other = place.snapshot()
    place.record(other / "record", place.workspace)
    (place.workspace / ".loom").mkdir()
    (place.workspace / ".loom/.runtime").symlink_to(other / "record")
    place.changed()


@pytest.mark.parametrize("below", ["", "sub"])
def test_configuration_in_the_workspace(place: Place, below: str) -> None:
    inside = place.workspace / below
    (inside / ".loom").mkdir(parents=True)
    if below:
        Repo(inside).git("init", "-q")
    (inside / ".loom/config.yml").write_text("state_dir: st\n")
    document = json.loads(next((place.state / "snapshots").iterdir()).read_bytes())
    evil(document, place.tmp)
    (inside / "st/snapshots").mkdir(parents=True)
    (inside / f"st/snapshots/{place.workspace.name}.json").write_text(json.dumps(document))
    place.changed(cwd=inside, said=".." if below else ".")


def test_filters_that_a_job_has_replaced(work: Repo, snap: Snap, tmp_path: Path) -> None:
    work.write("up", "#!/bin/sh\ncat\n", 0o755)
    work.write(".gitattributes", "*.t filter=up\n")
    work.git("config", "filter.up.clean", "./up")
    work.write("b.t")
    work.commit()
    snapshot = snap(work)
    assert proved(snapshot).same
    (snapshot.path / "up").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\ncat\n")
    (snapshot.path / ".gitattributes").write_text("*.t filter=up -text\n")
    shutil.rmtree(work.root)
    assert [change.path for change in proved(snapshot).changes] == [".gitattributes", "up"]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "trap",
    [".gitignore", "src/.gitattributes", ".git/objects/info/alternates", "n/.git/HEAD", ".git/objects/pack/x.idx"],
)
def test_fifos_that_git_would_wait_for(work: Repo, snap: Snap, trap: str) -> None:
    snapshot = snap(work)
    (snapshot.path / trap).parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(snapshot.path / trap)
    with pytest.raises(SnapshotError, match=trap):
        proved(snapshot)


def test_copies_and_moved_workspaces_are_proved_themselves(place: Place, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / place.workspace.name
    shutil.copytree(place.workspace, copy, symlinks=True)
    done = place.loom("verify", "--json", str(copy))
    assert (done.returncode, json.loads(done.stdout)["believed"]) == (0, False), done.stderr
    (copy / "README").write_text("changed\n")
    assert place.loom("verify", str(copy)).returncode == 1
    assert place.loom("verify", str(place.workspace)).returncode == 0


def test_a_workspace_without_its_git_is_proved_by_what_was_kept_and_removed(place: Place) -> None:
    shutil.rmtree(place.workspace / ".git")
    assert place.loom("verify", str(place.workspace)).returncode == 0
    place.changed()
    done = place.loom("clean", "--all")
    assert (done.returncode, place.workspace.exists()) == (0, False), done.stdout + done.stderr


def test_a_manifest_that_was_kept_and_is_damaged(place: Place) -> None:
    (kept,) = (place.state / "snapshots").iterdir()
    kept.write_text("{")
    done = place.loom("verify", "--json", str(place.workspace))
    assert (done.returncode, json.loads(done.stdout)["believed"]) == (0, False), done.stderr
    kept.unlink()
    os.mkfifo(kept)
    assert place.loom("clean").returncode == 0
    assert not kept.exists()


def test_names_that_git_refuses(work: Repo, snap: Snap) -> None:
    snapshot = snap(work)
    (snapshot.path / "git~1").write_text("sneaked in\n")
    (snapshot.path / ".GIT").mkdir()
    (snapshot.path / ".GIT/x").write_text("x\n")
    verified = proved(snapshot)
    assert not verified.same
    named = {change.path for change in verified.changes} | {path for path, _ in verified.unreadable}
    assert named == {"git~1", ".GIT/x"}


def test_temporary_files_in_the_workspace_are_none_of_its(place: Place) -> None:
    place.environ["TMPDIR"] = str(place.workspace)
    assert place.loom("verify", str(place.workspace)).returncode == 0


def test_an_empty_name_is_no_run(place: Place) -> None:
    for command in ("clean", "verify", "show"):
        done = place.loom(command, "")
        assert done.returncode == 2, done.stdout + done.stderr
    assert place.workspace.exists()


def test_the_current_directory_is_gone(place: Place, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    program = "import os, sys; os.mkdir(sys.argv[1]); os.chdir(sys.argv[1]); os.rmdir(sys.argv[1]); os.execv(sys.argv[2], sys.argv[2:])"
    for command in (["snapshot"], ["verify", "x"], ["runs"], ["check"]):
        done = subprocess.run(
            [sys.executable, "-c", program, str(gone), sys.executable, "-m", "loom", *command],
            env=place.environ, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, "was removed" in done.stderr) == (2, True), done.stderr
