"""Patches from a workspace to its checkout, and what differs between two snapshots; git is the judge of both."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from loom.cancel import Cancel
from loom.errors import SnapshotError
from loom.snapshot import (
    Change,
    Merge,
    Patch,
    Snapshot,
    apply_patch,
    bring,
    changes_between,
    compare,
    content_at,
    discover,
    facts_of_commit,
    manifest_bytes,
    merge,
    objects,
    patch_of,
    read_manifest,
    take,
)
from loom.util.paths import is_below
from tests.support.effort import fuzzed

from .conftest import NewRepo, Repo

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


def test_edits_made_since_stay_and_the_rest_is_applied(work: Repo, snap: Snap, tmp_path: Path) -> None:
    snapshot = snap(work)
    change(Repo(snapshot.path))
    patch = pulled(work, snapshot, tmp_path)
    work.write("text", "mine\n")
    work.write("new/binary", "mine\n")
    later = pulled(work, snapshot, tmp_path)
    assert list(later.conflicts) == ["new/binary", "text"]
    assert b"text" not in later.text.splitlines()[0]
    assert list(apply_patch(patch, work.root).failed) == ["new/binary", "text"]
    expected = {**files_of(snapshot.path), b"text": (False, b"mine\n"), b"new/binary": (False, b"mine\n")}
    assert files_of(work.root) == expected


@pytest.mark.parametrize("mine", ["tree/own", "tree/below/ignored.log", "tree/below"])
def test_a_replaced_directory_stays_whole_where_something_else_is_in_it(
    work: Repo, snap: Snap, tmp_path: Path, mine: str
) -> None:
    for name in ("a", "below/b"):
        work.write(f"tree/{name}")
    work.write(".gitignore", "*.log\n")
    work.commit()
    snapshot = snap(work)
    job = Repo(snapshot.path)
    subprocess.run(["rm", "-r", str(job.root / "tree")], check=True)
    job.write("tree", "a file now\n")
    job.write("text", "changed\n")
    if mine == "tree/below":
        (work.root / "tree/below/b").unlink()
        (work.root / mine).rmdir()
        work.link(mine, str(tmp_path))
    else:
        work.write(mine, "mine\n")
    before = files_of(work.root)
    patch = pulled(work, snapshot, tmp_path)
    assert {"tree", "tree/a"} <= patch.conflicts.keys()
    assert not apply_patch(patch, work.root).failed
    assert files_of(work.root) == {**before, b"text": (False, b"changed\n")}


def test_a_file_that_can_not_be_written_is_named_and_blocks_no_other(
    work: Repo, snap: Snap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = snap(work)
    Repo(snapshot.path).write("text", "changed\n")
    Repo(snapshot.path).write("latin", "changed\n")
    patch = pulled(work, snapshot, tmp_path)
    write = merge.atomic.write

    def refuse(path: Path, *arguments: object, **options: Any) -> None:
        if path.name == "text":
            raise PermissionError(13, "Permission denied")
        write(path, *arguments, **options)

    monkeypatch.setattr(merge.atomic, "write", refuse)
    assert apply_patch(patch, work.root).failed == {"text": "Permission denied"}
    assert (work.root / "text").read_text() == "1\n2\n3\n"
    assert (work.root / "latin").read_text() == "changed\n"


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
    work.link("added", str(outside))
    patch = pulled(work, snapshot, tmp_path)
    assert patch.conflicts == {"added/file": "added is a link there"}
    assert not apply_patch(patch, work.root).failed
    assert [path.name for path in outside.iterdir()] == ["only"]


class Synced:
    """A checkout, a job's files that were its snapshot, and what was brought last."""

    def __init__(self, work: Repo, snap: Snap) -> None:
        self.work, self._snap = work, snap
        taken = snap(work)
        self.directory = Repo(taken.path)
        self._manifest = taken.path.with_suffix(".manifest.json")
        self._manifest.write_bytes(manifest_bytes(taken.path))

    def compare(self) -> tuple[Snapshot, Merge]:
        taken = self._snap(self.work)
        return taken, compare(
            taken.path, self.directory.root, environ=self.work.environ, manifest_file=self._manifest, not_there=()
        )

    def sync(self, *, theirs: bool = False) -> tuple[list[str], list[str]]:
        taken, found = self.compare()
        bring(taken.path, self.directory.root, found, theirs=theirs)
        self._manifest.write_bytes(manifest_bytes(taken.path))
        return [change.path for change in found.changes], list(found.conflicts)


@pytest.fixture
def synced(work: Repo, snap: Snap) -> Synced:
    return Synced(work, snap)


@pytest.mark.slow
def test_every_kind_of_change_is_brought_and_what_was_undone_is_undone(synced: Synced) -> None:
    synced.directory.write("made by the job")
    own = files_of(synced.directory.root)
    change(synced.work)
    synced.work.git("add", "-A")
    synced.work.commit()  # as well as by edits
    synced.sync()
    assert files_of(synced.directory.root) == {**files_of(synced.work.root), b"made by the job": (False, b"x\n")}
    assert synced.sync() == ([], [])
    synced.work.git("revert", "--no-edit", "HEAD")
    synced.sync()
    assert files_of(synced.directory.root) == own


@pytest.mark.parametrize("umask", [0, 0o022])
def test_what_is_brought_has_the_modes_of_the_workspace(work: Repo, tmp_path: Path, umask: int) -> None:
    files, taken = tmp_path / "files", tmp_path / "taken"
    for directory in (files, taken):
        directory.mkdir()
        take(discover(work.root, environ=work.environ), directory, cancel=Cancel(), umask=umask)
        work.write("new/tool", "#!/bin/sh\n", mode=0o755)
        work.write("README", "changed\n")
    before = tmp_path / "manifest"
    before.write_bytes(manifest_bytes(files))
    found = compare(taken, files, environ=work.environ, manifest_file=before)
    assert bring(taken, files, found, theirs=False).written == ["README", "new"]
    modes = [(files / path).stat().st_mode & 0o777 for path in ("README", "new", "new/tool")]
    assert modes == [mode & ~umask for mode in (0o666, 0o777, 0o777)]


@pytest.mark.slow
def test_changes_on_both_sides_are_conflicts_until_it_is_decided(synced: Synced) -> None:
    for side, text in ((synced.work, "checkout\n"), (synced.directory, "job\n")):
        side.write("text", text)
        side.write("new", text)
        side.write("latin", "the same\n")
    (synced.directory.root / "mode").unlink()
    synced.work.write("mode", "changed\n")
    (synced.work.root / "file").unlink()
    synced.directory.write("file", "changed\n")
    synced.work.write("only here", "checkout\n")
    before = files_of(synced.directory.root)
    _, found = synced.compare()
    assert list(found.conflicts) == ["file", "mode", "new", "text"]
    assert [change.path for change in found.changes] == ["only here"]
    assert files_of(synced.directory.root) == before

    synced.sync()  # keeps the job's
    assert files_of(synced.directory.root) == {**before, b"only here": (False, b"checkout\n")}
    assert synced.sync() == ([], []), "what was decided is not asked again"
    synced.work.write("text", "again\n")
    assert synced.sync(theirs=True) == ([], ["text"])
    assert (synced.directory.root / "text").read_text() == "again\n"


def test_a_directory_gives_way_to_a_file_only_by_decision(synced: Synced, tmp_path: Path) -> None:
    (synced.work.root / "deep/down/only").unlink()
    (synced.work.root / "deep/down").rmdir()
    (synced.work.root / "deep").rmdir()
    synced.work.write("deep", "a file now\n")
    synced.work.write("open/file", "x\n")
    synced.directory.write("deep/own", "x\n")
    synced.directory.link("open", str(tmp_path))
    _, found = synced.compare()
    assert found.conflicts.keys() == {"deep", "deep/down/only", "open/file"}
    synced.sync(theirs=True)
    assert (synced.directory.root / "deep").read_text() == "a file now\n"
    assert (synced.directory.root / "open/file").read_text() == "x\n"
    assert not (tmp_path / "file").exists()


def test_what_a_snapshot_would_not_have_is_not_brought_nor_taken_away(synced: Synced) -> None:
    synced.work.write(".gitignore", "*.log\n")
    synced.work.write("a.log", "ignored\n")
    synced.work.write("b.log", "forced\n")
    synced.work.git("add", "-f", "b.log")
    synced.work.git("update-index", "--skip-worktree", "latin")
    (synced.work.root / "latin").unlink()
    synced.directory.write("b.log", "of the job\n")
    assert synced.sync() == ([".gitignore"], ["b.log"])
    assert (synced.directory.root / "latin").exists()
    assert not (synced.directory.root / "a.log").exists()


@pytest.mark.slow
def test_files_of_a_submodule_are_brought(new_repo: NewRepo, snap: Snap) -> None:
    inner, outer = new_repo("inner"), new_repo("outer")
    inner.write("lib", "1\n")
    inner.commit()
    outer.git("submodule", "add", "-q", str(inner.root), "sub")
    outer.commit()
    synced = Synced(outer, snap)
    (outer.root / "sub/lib").write_text("2\n")
    assert synced.sync() == (["sub/lib"], [])
    Repo(outer.root / "sub").commit()
    assert synced.sync() == ([], [])
    assert (synced.directory.root / "sub/lib").read_text() == "2\n"
    (outer.root / "sub/lib").write_text("1\n")
    assert synced.sync() == (["sub/lib"], [])


@pytest.mark.slow
def test_files_that_a_filter_converts_are_synced_as_bytes(new_repo: NewRepo, snap: Snap) -> None:
    repo = new_repo("filtered")
    repo.write(".gitattributes", "*.up filter=up\n*.crlf text eol=crlf\n")
    repo.git("config", "filter.up.clean", "tr a-z A-Z")
    repo.write("a.up", "lower\n")
    repo.write("a.crlf", "a\r\n")
    repo.commit()
    synced = Synced(repo, snap)
    for content in ("changed\n", "again\n", "lower\n"):
        repo.write("a.up", content)
        repo.write("a.crlf", content.replace("\n", "\r\n"))
        assert synced.sync() == (["a.crlf", "a.up"], [])
        assert files_of(synced.directory.root) == files_of(repo.root)
        assert synced.sync() == ([], [])


def test_a_repository_with_sha256_is_synced(tmp_path: Path, snap: Snap) -> None:
    repo = Repo(tmp_path / "sha256")
    repo.root.mkdir()
    repo.git("init", "-q", "--object-format=sha256")
    repo.write("a")
    repo.commit()
    synced = Synced(repo, snap)
    repo.write("a", "changed\n")
    repo.commit()
    assert synced.sync() == (["a"], [])


# Few names, so that files, links and directories take each other's places.
names = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map("/".join)
contents = st.sampled_from([b"", b"x\n", b"y", b"\0\xff", b"one\ntwo\n"])
files = st.dictionaries(names, st.tuples(st.sampled_from(["file", "exec", "link"]), contents), max_size=6)


def lay_out(root: Path, wanted: dict[str, tuple[str, bytes]]) -> None:
    """Make `root` hold these files and nothing else; a later name gives way to an earlier one."""
    for old in root.iterdir():
        if old.name != ".git":
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    for name, (kind, content) in wanted.items():
        path = root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "link":
                path.symlink_to("to-" + content.hex())
            else:
                path.write_bytes(content)
                path.chmod(0o755 if kind == "exec" else 0o644)
        except OSError:
            continue


@pytest.mark.slow
@fuzzed(15)
@given(before=files, job=files, mine=files, edited=st.booleans())
@example(before={"a": ("file", b"\0\xff")}, job={"a": ("exec", b"\0\xff")}, mine={}, edited=False)
def test_pull_does_what_git_apply_does(
    before: dict[str, tuple[str, bytes]], job: dict[str, tuple[str, bytes]], mine: Any, edited: bool
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        work = Repo(Path(scratch, "work"))
        work.root.mkdir()
        work.git("init", "-q")
        lay_out(work.root, before)
        work.commit()
        directory = Path(scratch, "workspace")
        directory.mkdir()
        take(discover(work.root, environ=work.environ), directory, cancel=Cancel())
        manifest = Path(scratch, "manifest.json")
        manifest.write_bytes(manifest_bytes(directory))
        lay_out(directory, job)
        if edited:
            lay_out(work.root, mine)
        patch = patch_of(directory, work.root, environ=work.environ, manifest_file=manifest, leave_out=lambda _: False)
        other = Path(scratch, "other")
        shutil.copytree(work.root, other, symlinks=True)
        if patch.text:
            git = ["git", "apply", "--whitespace=nowarn", "-"]
            subprocess.run(git, cwd=other, input=patch.text, check=True, env=work.environ)
        assert not apply_patch(patch, work.root).failed
        assert files_of(work.root) == files_of(other)
        if not edited:
            assert not patch.conflicts
            assert files_of(work.root) == files_of(directory)


def changes_of(before: dict[bytes, Any], after: dict[bytes, Any]) -> list[Change]:
    found = []
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            kind = "added" if name not in before else "deleted" if name not in after else "modified"
            found.append(Change(path=os.fsdecode(name), kind=kind, old_mode="", mode="", old_sha="", sha=""))
    return found


def related(path: str, others: Collection[str]) -> bool:
    """Whether one is, or is above or below, one of the others."""
    return any(is_below(path, other) or is_below(other, path) for other in others)


@pytest.mark.slow
@fuzzed(40)
@given(before=files, mine=files, job=files)
def test_a_merge_takes_each_path_whole_or_leaves_it(
    before: dict[str, tuple[str, bytes]], mine: dict[str, tuple[str, bytes]], job: dict[str, tuple[str, bytes]]
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        base, source, directory = (Path(scratch, name) for name in ("base", "source", "directory"))
        for root, wanted in ((base, before), (source, mine), (directory, job)):
            root.mkdir()
            lay_out(root, wanted)
        old, wanted_files = files_of(directory), files_of(source)
        changes = changes_of(files_of(base), wanted_files)
        in_place = {change.path: "changed" for change in changes_of(files_of(base), old)}
        found = merge.merge(partial(content_at, source), changes, directory, in_place)
        taken = {change.path for change in found.changes}
        assert not taken & found.conflicts.keys()
        assert not taken & in_place.keys()
        assert not merge.apply_to(directory, found.changes, partial(merge.content_at, source)).failed
        now = files_of(directory)
        for name in old.keys() | now.keys():
            path = os.fsdecode(name)
            assert now.get(name) == (wanted_files if path in taken else old).get(name), path

        both = found.conflicts.keys()
        forced = merge.apply_to(directory, found.both, partial(merge.content_at, source), force=both)
        assert not forced.failed
        after = files_of(directory)
        for name in now.keys() | after.keys():
            path = os.fsdecode(name)
            if path in both:
                assert after.get(name) == wanted_files.get(name), path
            elif not related(path, both):
                assert after.get(name) == now.get(name), path


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
    found = changes_between(one, two, environ=work.environ)
    assert {
        change.path: tuple(None if not sha.strip("0") else sha for sha in (change.old_sha, change.sha))
        for change in found
    } == expected
    assert changes_between(one, one, environ=work.environ) == ()


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
