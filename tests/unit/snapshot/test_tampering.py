"""`verify` against random tampering, in the files and in the workspace's `.git`: it names what differs, or refuses."""

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.cancel import Cancel
from loom.errors import SnapshotError
from loom.snapshot import discover, manifest_bytes, take, verify
from tests.support.effort import fuzzed

from .conftest import ENVIRONMENT, Repo

NAMES = ("a", "b", "d/c", "d/e", "run.sh", "new", "x.log", "d", "a/under")


@dataclass(frozen=True)
class Work:
    directory: Path
    manifest: Path
    tree_sha: str


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    base = tmp_path_factory.mktemp("tampering")
    repo = Repo(base / "repo")
    repo.root.mkdir()
    repo.git("init", "-q")
    for name in ("a", "b", "d/c", "d/e"):
        repo.write(name, f"{name}\n")
    repo.write("run.sh", "#!/bin/sh\n", 0o755)
    repo.write(".gitignore", "*.log\n")
    repo.link("link", "a")
    repo.commit()
    repo.write("b", "uncommitted\n")
    directory = base / "workspace"
    directory.mkdir()
    taken = take(discover(repo.root, environ=repo.environ), directory, cancel=Cancel())
    manifest = base / "manifest.json"
    manifest.write_bytes(manifest_bytes(directory))
    return Work(directory=directory, manifest=manifest, tree_sha=taken.tree_sha)


def content_of(root: Path) -> dict[str, tuple[str, bytes]]:
    """What git would have of the files: kind and bytes; nothing of directories and of what is ignored."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if name.split("/")[0] == ".git" or name.endswith(".log") or (path.is_dir() and not path.is_symlink()):
            continue
        if path.is_symlink():
            found[name] = ("link", os.fsencode(path.readlink()))
        else:
            found[name] = ("exec" if path.stat().st_mode & 0o100 else "file", path.read_bytes())
    return found


def cleared(path: Path) -> Path:
    """Nothing is there, and no file is where a directory above it should be."""
    for above in reversed(path.parents):
        if above.is_symlink() or above.is_file():
            above.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    return path


def same_size_and_time(path: Path) -> None:
    if path.is_file() and not path.is_symlink():
        status = path.stat()
        path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def damaged(path: Path) -> None:
    if path.is_file():
        data = bytearray(path.read_bytes() or b"\0")
        data[len(data) // 2] ^= 255
        path.chmod(0o644)
        path.write_bytes(data)


FILES: tuple[Callable[[Path], object], ...] = (
    lambda path: cleared(path).write_text("job\n"),
    lambda path: cleared(path).symlink_to("elsewhere"),
    lambda path: cleared(path).mkdir(),
    lambda path: path.chmod(path.stat().st_mode ^ 0o111) if path.is_file() and not path.is_symlink() else None,
    cleared,
    same_size_and_time,
)
GIT: tuple[Callable[[Path], object], ...] = (
    lambda git: (git / "index").unlink(missing_ok=True),
    lambda git: damaged(git / "index"),
    lambda git: damaged(git / "loom-snapshot.json"),
    lambda git: (git / "loom-snapshot.json").write_text("{}"),
    lambda git: (git / "HEAD").write_text("ref: refs/heads/none\n"),
    lambda git: (git / "info").mkdir(exist_ok=True) or (git / "info/exclude").write_text("*\n"),
    lambda git: (git / "info").mkdir(exist_ok=True) or (git / "info/attributes").write_text("* text eol=crlf\n"),
    lambda git: (git / "config").write_text(
        (git / "config").read_text() + "[core]\n\tfileMode = false\n\tfsmonitor = false\n\tautocrlf = true\n"
    ),
    lambda git: [damaged(path) for path in sorted((git / "objects").rglob("*")) if path.is_file()][:1],
    lambda git: [path.unlink() for path in sorted((git / "objects").rglob("*")) if path.is_file()],
    lambda git: shutil.rmtree(git / "refs", ignore_errors=True),
)


@fuzzed(12, 1000)
@given(
    files=st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(FILES)), max_size=4),
    git=st.lists(st.sampled_from(GIT), max_size=2),
)
@pytest.mark.slow
def test_verify_names_what_was_tampered_with(
    work: Work, files: list[tuple[str, Callable[[Path], object]]], git: list[Callable[[Path], object]]
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch, work.directory.name)
        shutil.copytree(work.directory, directory, symlinks=True)
        for name, change in files:
            change(directory / name)
        for tamper in git:
            tamper(directory / ".git")
        before, after = content_of(work.directory), content_of(directory)
        differing = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        try:
            found = verify(directory, environ=ENVIRONMENT, tree_sha=work.tree_sha, manifest_file=work.manifest)
        except SnapshotError:
            assert git, "it has all that it needs"
            return
        assert found.believed
        assert {change.path for change in found.changes} == differing
        assert found.same == (not differing)
