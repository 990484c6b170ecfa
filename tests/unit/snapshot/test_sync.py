"""Patches from a workspace to its checkout, and what differs between two snapshots; git is the judge of both."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from loom.errors import RequestError, SnapshotError
from loom.snapshot import (
    Patch,
    Snapshot,
    apply_patch,
    differing,
    facts_of_commit,
    manifest_bytes,
    objects,
    patch_of,
    read_manifest,
)

from .conftest import Repo

Snap = Callable[..., Snapshot]
STRANGE = (b"a b", b"\xe9\xff", b"new\nline", b'quote"', b"tab\t", b"back\\slash", b"-dash", b":colon")


@pytest.fixture
def work(repo: Repo) -> Repo:
    repo.write("text", "1\n2\n3\n")
    repo.write("binary", b"\0\1" * 50)
    repo.write("latin", b"\xe9\n")
    repo.write("mode", "x\n")
    repo.write("deep/down/only", "x\n")
    repo.write("file", "x\n")
    repo.link("link", "text")
    repo.write("becomes", "x\n")
    for name in STRANGE:
        repo.write(os.fsdecode(b"strange/" + name), "before\n")
    repo.commit()
    return repo


def change(job: Repo) -> None:
    """Every kind of change that a patch can hold."""
    job.write("text", "1\n2\r\n3")
    job.write("binary", b"\0\2" * 60)
    job.write("latin", b"\xe9\xe8\n")
    (job.root / "mode").chmod(0o755)
    (job.root / "deep/down/only").unlink()
    (job.root / "file").unlink()
    job.write("file/inside", "x\n")
    (job.root / "link").unlink()
    job.link("link", "mode")
    (job.root / "becomes").unlink()
    job.link("becomes", "text")
    job.write("empty", b"")
    job.write("new/binary", b"\0" * 10)
    for name in STRANGE:
        job.write(os.fsdecode(b"strange/" + name), "after\n")
        job.write(os.fsdecode(b"made/" + name), "made\n")


def pulled(work: Repo, snapshot: Snapshot, tmp_path: Path) -> Patch:
    manifest = tmp_path / "manifest.json"
    if not manifest.exists():
        manifest.write_bytes(manifest_bytes(snapshot.path))
    return patch_of(snapshot.path, work.root, environ=work.environ, manifest_file=manifest, leave_out=lambda _: False)


def files_of(root: Path) -> dict[bytes, tuple[bool, bytes]]:
    found = {}
    for here, _, names in os.walk(os.fsencode(root)):
        for name in names:
            path = os.path.join(here, name)
            relative = os.path.relpath(path, os.fsencode(root))
            if not relative.startswith(b".git/"):
                link = os.path.islink(path)
                content = os.readlink(path) if link else Path(os.fsdecode(path)).read_bytes()
                found[relative] = (not link and os.access(path, os.X_OK) and os.stat(path).st_mode & 0o100 > 0, content)
    return found


def test_a_patch_holds_what_git_applies(work: Repo, snap: Snap, tmp_path: Path) -> None:
    snapshot = snap(work)
    change(Repo(snapshot.path))
    patch = pulled(work, snapshot, tmp_path)
    assert not patch.conflicts
    other = tmp_path / "other"
    subprocess.run(["git", "clone", "-q", str(work.root), str(other)], check=True, env=work.environ)
    git = ["git", "-c", "core.protectNTFS=false", "apply", "--whitespace=nowarn", "-"]
    subprocess.run(git, cwd=other, input=patch.text, check=True, env=work.environ)
    assert files_of(other) == files_of(snapshot.path)
    apply_patch(patch, work.root)
    assert files_of(work.root) == files_of(snapshot.path)
    assert not (work.root / "deep").exists()
    assert pulled(work, snapshot, tmp_path).text == b""


def test_edits_made_after_the_patch_stay(work: Repo, snap: Snap, tmp_path: Path) -> None:
    snapshot = snap(work)
    change(Repo(snapshot.path))
    patch = pulled(work, snapshot, tmp_path)
    work.write("text", "mine\n")
    work.write("new/binary", "mine\n")
    before = files_of(work.root)
    with pytest.raises(RequestError, match=r"text, new/binary|new/binary, text"):
        apply_patch(patch, work.root)
    assert files_of(work.root) == before


def test_a_link_in_place_of_a_directory_is_not_followed(work: Repo, snap: Snap, tmp_path: Path) -> None:
    snapshot = snap(work)
    outside = tmp_path / "outside/down"
    outside.mkdir(parents=True)
    (outside / "only").write_text("private\n")
    job = Repo(snapshot.path)
    subprocess.run(["rm", "-r", str(job.root / "deep")], check=True)
    job.link("deep", str(tmp_path / "outside"))
    assert b"private" not in pulled(work, snapshot, tmp_path).text
    Repo(snapshot.path).write("added/file", "x\n")
    patch = pulled(work, snapshot, tmp_path)
    work.link("added", str(outside))
    with pytest.raises(RequestError, match="behind a link"):
        apply_patch(patch, work.root)
    assert [path.name for path in outside.iterdir()] == ["only"]


def test_a_name_that_no_patch_can_have(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="git~1: no patch can name it"):
        objects.patch({}, {"git~1": (0o100644, b"")}, str(tmp_path))


def test_two_snapshots_differ_as_git_says(work: Repo, snap: Snap) -> None:
    one = read_manifest(snap(work).path)
    change(work)
    work.git("add", "-A")
    work.commit()
    two = read_manifest(snap(work).path)
    raw = work.git("diff-tree", "-r", "-z", "--no-renames", "--no-abbrev", one.head_sha, two.head_sha)
    items = raw.split("\0")
    expected = {}
    for about, path in zip(items[::2], items[1::2], strict=False):
        _, _, old, new, _ = about.split(" ")
        expected[path] = tuple(None if not sha.strip("0") else sha for sha in (old, new))
    assert differing(one, two) == expected
    assert differing(one, one) == {}


def test_facts_of_a_commit(work: Repo, snap: Snap) -> None:
    manifest = read_manifest(snap(work).path)
    found = facts_of_commit(manifest)
    *facts, time = work.git("log", "-1", "--format=%H%n%s%n%an%n%at").splitlines()
    assert list(found.values()) == [*facts, f"{datetime.fromtimestamp(int(time), UTC):%Y-%m-%dT%H:%M:%SZ}"]
    tree = work.git("rev-parse", "HEAD^{tree}").strip()
    for wrong in (
        {"head_sha": tree},
        {"head_sha": "0" * 40},
        {"head_sha": "f" * 64},
        {"stores": ()},
        {"stores": ("/nowhere",)},
    ):
        with pytest.raises(SnapshotError, match="can't be read"):
            facts_of_commit(replace(manifest, **wrong))
