"""Whoever can only write into a workspace names no program that `loom verify` runs, and forges no verdict."""

import base64
import json
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loom.errors import SnapshotError
from loom.snapshot import verify
from tests.support.loom_process import run_loom

from .conftest import ENVIRONMENT, Repo, Snap, proved

ROOT = Path(__file__).parents[3]
Forge = Callable[[dict[str, Any], Path], None]


def named(document: dict[str, Any], attributes: str, key: str, value: str) -> None:
    """A setting, and attributes that send every file through what it names."""
    document["rules"]["own_attributes"] = base64.b64encode(attributes.encode()).decode()
    document["rules"]["config"].append([key, value])


def evil(document: dict[str, Any], place: Path) -> None:
    """A filter for every file, as a manifest names it."""
    named(document, "* filter=e\n", "filter.e.clean", f"touch {place}/ran; cat")


def upper_case(document: dict[str, Any], place: Path) -> None:
    named(document, "* filter=e\n", "Filter.e.clean", f"touch {place}/ran; cat")


def included(document: dict[str, Any], place: Path) -> None:
    (place / "included").write_text(f'[filter "e"]\n\tclean = "touch {place}/ran; cat"\n')
    named(document, "* filter=e\n", "include.path", f"{place}/included")


def as_git_lfs(document: dict[str, Any], place: Path) -> None:
    named(document, "* filter=lfs\n", "filter.lfs.clean", f"git-lfs clean; touch {place}/ran; cat")


def in_the_format(document: dict[str, Any], place: Path) -> None:
    document["rules"]["own_attributes"] = base64.b64encode(b"* filter=e\n").decode()
    document["object_format"] = f'sha1\n[filter "e"]\n\tclean = "touch {place}/ran; cat"'


def fetched(document: dict[str, Any], place: Path) -> None:
    document["rules"]["config"] += [
        ["remote.x.promisor", "true"],
        ["remote.x.url", f"ext::sh -c touch%% {place}/ran"],
        ["protocol.ext.allow", "always"],
    ]
    document["head_sha"] = "1234567890" * 4


def outside(document: dict[str, Any], place: Path) -> None:
    ids = {name: document[name] for name in ("head_sha", "tree_sha", "rules")}
    document["submodules"] = [{"path": "../../../etc", "changed": [], **ids}]


def a_switch(document: dict[str, Any], place: Path) -> None:
    document["head_sha"] = "--upload-pack=touch"


def no_number(document: dict[str, Any], place: Path) -> None:
    document["rules"]["config"].append([7, ""])


def a_nul(document: dict[str, Any], place: Path) -> None:
    document["rules"]["config"].append(["core.eol", "a\0b"])


@pytest.mark.parametrize(
    "forge", [evil, upper_case, included, as_git_lfs, in_the_format, fetched, outside, a_switch, no_number, a_nul]
)
@pytest.mark.parametrize("believed", [False, True])
def test_a_forged_manifest(work: Repo, snap: Snap, tmp_path: Path, forge: Forge, believed: bool) -> None:
    """Also a believed one: other commands get their record from the caller."""
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
        return run_loom(arguments, cwd=cwd or self.work.root, environ=self.environ)

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


@pytest.mark.slow
def test_the_current_directory_is_gone(place: Place, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    program = "import os, sys; os.mkdir(sys.argv[1]); os.chdir(sys.argv[1]); os.rmdir(sys.argv[1]); os.execv(sys.argv[2], sys.argv[2:])"
    for command in (["snapshot"], ["verify", "x"], ["runs"], ["check"]):
        done = subprocess.run(
            [sys.executable, "-c", program, str(gone), sys.executable, "-m", "loom", *command],
            env=place.environ, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, "was removed" in done.stderr) == (2, True), done.stderr


def test_forged_objects(work: Repo, snap: Snap) -> None:
    """git does not check that an object is what its id says: one in the place of a directory's tree changes the content."""
    snapshot = snap(work)
    (snapshot.path / "src/main.py").write_text("evil\n")
    inside = Repo(snapshot.path)
    sha = inside.git("rev-parse", "HEAD:src").strip()
    blob = inside.git("hash-object", "src/main.py").strip()
    entry = b"100644 main.py\0" + bytes.fromhex(blob)
    forged = snapshot.path / f".git/objects/{sha[:2]}/{sha[2:]}"
    forged.unlink(missing_ok=True)
    forged.parent.mkdir(exist_ok=True)
    forged.write_bytes(zlib.compress(b"tree %d\0" % len(entry) + entry))
    try:
        assert not proved(snapshot).same
    except SnapshotError as error:
        assert error.code in ("MANIFEST_DAMAGED", "SNAPSHOT_NOT_REBUILT")  # noqa: PT017  either is right


def test_what_git_converts_is_proved_by_its_bytes(work: Repo, snap: Snap) -> None:
    work.write(".gitattributes", "*.id ident\n*.u7 working-tree-encoding=UTF-7\n")
    work.write("a.id", "$Id$\n")
    work.write("a.u7", "# x\n")
    work.commit()
    snapshot = snap(work)
    assert proved(snapshot).same
    (snapshot.path / "a.id").write_text("$Id: evil $\n")
    (snapshot.path / "a.u7").write_text("+ACM x\n")
    verified = proved(snapshot)
    assert {path for path, _ in verified.unreadable} | {change.path for change in verified.changes} == {"a.id", "a.u7"}


def test_names_that_end_in_a_carriage_return(work: Repo, snap: Snap) -> None:
    work.write("Icon\r", "one\n")
    work.write("filtered\r.up")
    work.write(".gitattributes", "*.up filter=up\n")
    work.git("config", "filter.up.clean", "tr a-z A-Z")
    snapshot = snap(work)
    assert snapshot.tree_sha == work.would_commit()
    assert proved(snapshot).same
    (snapshot.path / "Icon\r").write_text("evil\n")
    (snapshot.path / "Icon").write_text("one\n")
    assert {change.path for change in proved(snapshot).changes} == {"Icon", "Icon\r"}


@pytest.mark.slow
def test_directories_deep_inside_one_another(place: Place) -> None:
    descriptor = os.open(place.workspace, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    done = place.loom("verify", str(place.workspace))
    assert done.returncode in (0, 1), done.stderr
    done = place.loom("clean", "--all")
    assert (done.returncode, place.workspace.exists()) == (0, False), done.stdout + done.stderr


def test_another_repositorys_format(work: Repo, snap: Snap) -> None:
    Repo(work.root).git("init", "-q", "--object-format=sha256", "n")
    Repo(work.root / "n").git("commit", "-q", "--allow-empty", "-m", "x")
    snapshot = snap(work)
    assert ["another format" in left.reason for left in snapshot.left_out] == [True]
    assert proved(snapshot).same
    Repo(snapshot.path).git("init", "-q", "--object-format=sha256", "m")
    Repo(snapshot.path / "m").git("commit", "-q", "--allow-empty", "-m", "x")
    assert [path for path, _ in proved(snapshot).unreadable] == ["m"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs files of another user")
def test_configuration_of_another_user_beside_the_workspace(place: Place, tmp_path: Path) -> None:
    """In a shared directory, where anybody may put one: it says neither what is believed nor what is old."""
    theirs = place.tmp / "evil"
    (theirs / "snapshots").mkdir(parents=True)
    (place.tmp / ".loom").mkdir()
    (place.tmp / ".loom/config.yml").write_text(f"state_dir: {theirs}\n")
    (theirs / "snapshots/package.json").write_text('{"workspace": "2f6e6f7768657265"}')
    document = json.loads((place.workspace / ".git/loom-snapshot.json").read_bytes())
    document["workspace"] = os.fsencode(os.path.realpath(place.workspace)).hex()
    (theirs / f"snapshots/{place.workspace.name}.json").write_text(json.dumps(document))
    for path in (place.tmp / ".loom", *place.tmp.glob(".loom/*"), theirs, *theirs.rglob("*")):
        os.chown(path, 65534, 65534)
    done = place.loom("verify", "--json", str(place.workspace.relative_to(place.tmp)), cwd=place.tmp)
    assert done.returncode == 0, done.stderr
    (kept,) = (place.state / "snapshots").iterdir()
    kept.unlink()
    done = place.loom("verify", "--json", str(place.workspace.relative_to(place.tmp)), cwd=place.tmp)
    assert not json.loads(done.stdout)["believed"]
    assert place.loom("clean", "--all", cwd=place.tmp).returncode == 0
    assert (theirs / "snapshots/package.json").exists()


def test_files_that_are_no_manifests_stay(place: Place) -> None:
    (place.state / "snapshots/package.json").write_text('{"name": "x", "workspace": "2f6e6f7768657265"}')
    assert place.loom("clean", "--all").returncode == 0
    assert (place.state / "snapshots/package.json").exists()


RUN = "version: v1\nstages: [a]\na: {stage: a, script: [echo two >README]}\n"


@pytest.fixture
def ran(place: Place) -> Path:
    """The record of a run on this machine that changed its workspace."""
    place.work.write(".loom/workflow.yml", RUN)
    place.work.commit()
    done = place.loom("run", "--local", "--no-container")
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = (place.state / "runs").iterdir()
    return record


def test_a_link_to_another_runs_record(place: Place, ran: Path) -> None:
    (place.workspace / ".loom").mkdir(exist_ok=True)
    (place.workspace / ".loom/.runtime").symlink_to(ran)
    for command in ("clean", "show", "pull"):
        assert place.loom(command, str(place.workspace)).returncode == 2
    assert ran.exists()


def test_a_record_in_a_workspace_is_not_applied(place: Place, ran: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    copy = tmp_path / "copy"
    shutil.copytree(ran, copy, symlinks=True)
    for file in copy.rglob("*.json"):
        file.write_text(file.read_text().replace(str(place.work.root), str(victim)))
    done = place.loom("pull", "--apply", str(copy))
    assert (done.returncode, "nothing was applied" in done.stderr) == (2, True), done.stderr
    assert list(victim.iterdir()) == []


def test_a_repository_around_temporary_files_has_no_say(place: Place, ran: Path) -> None:
    around = Repo(place.tmp)
    around.git("init", "-q")
    (place.tmp / ".git/info/attributes").write_text("* diff=e filter=f\n")
    around.git("config", "filter.f.clean", f"touch {place.tmp}/ran; cat")
    around.git("config", "diff.e.textconv", f"touch {place.tmp}/ran; cat")
    done = place.loom("pull")
    assert "+two" in done.stdout, done.stderr
    assert not (place.tmp / "ran").exists()
    assert place.loom("pull", "--apply").returncode == 0
    assert (place.work.root / "README").read_text() == "two\n"


@pytest.mark.parametrize(
    "identity", ['{"workspace":5,"job_workspaces":[1]}', '{"workspace":["a"]}', '{"job_workspaces":"zz"}']
)
def test_records_of_any_shape(place: Place, tmp_path: Path, identity: str) -> None:
    record = tmp_path / "record"
    (record / "logs/5").mkdir(parents=True)
    (record / "logs/5/events.jsonl").touch()
    (record / "run.json").write_text(identity)
    for command in ("clean", "verify"):
        assert place.loom(command, str(record)).returncode == 2


def test_links_to_what_can_not_be_copied_are_pulled(place: Place, ran: Path) -> None:
    (workspace,) = (path for path in place.tmp.glob("*/loom-run-local-*") if path != place.workspace)
    os.mkfifo(workspace / "fifo")
    (workspace / "link").symlink_to("fifo")
    done = place.loom("pull")
    assert (done.returncode, "+fifo" in done.stdout) == (0, True), done.stderr
