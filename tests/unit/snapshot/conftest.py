"""Real repositories, and git itself as the judge of what a workspace must be."""

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from loom.cancel import Cancel
from loom.snapshot import Snapshot, Verification, discover, manifest_bytes, source, take, verify

Snap = Callable[..., Snapshot]
NewRepo = Callable[[str], "Repo"]

# Nothing of the machine that runs the tests: no user configuration, no system configuration, one author, fixed dates.
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HOME": "/dev/null/home",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.com",
    "GIT_AUTHOR_DATE": "2024-01-01T00:00:00Z",
    "GIT_COMMITTER_DATE": "2024-01-01T00:00:00Z",
    "GIT_CONFIG_COUNT": "3",
    "GIT_CONFIG_KEY_0": "protocol.file.allow",
    "GIT_CONFIG_VALUE_0": "always",
    "GIT_CONFIG_KEY_1": "init.defaultBranch",
    "GIT_CONFIG_VALUE_1": "main",
    "GIT_CONFIG_KEY_2": "maintenance.auto",
    "GIT_CONFIG_VALUE_2": "false",
}


class Repo:
    """A repository in a directory of its own."""

    def __init__(self, root: Path, environ: dict[str, str] | None = None) -> None:
        self.root = root
        self.environ = dict(environ or ENVIRONMENT)

    def git(self, *arguments: str, given: bytes | None = None, **environ: str) -> str:
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.root,
            env=self.environ | environ,
            input=given,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return os.fsdecode(done.stdout)

    def write(self, path: str, content: str | bytes = "x\n", mode: int | None = None) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        if mode is not None:
            file.chmod(mode)
        return file

    def link(self, path: str, target: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to(target)

    def commit(self, message: str = "c") -> str:
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD").strip()

    def would_commit(self) -> str:
        """What `git add -A && git write-tree` gives, without touching the repository.

        `--sparse`: else git refuses new files where a sparse checkout has none.
        """
        with tempfile.TemporaryDirectory() as scratch:
            index = Path(scratch, "index")
            own = Path(self.git("rev-parse", "--path-format=absolute", "--git-path", "index").strip())
            if own.exists():
                index.write_bytes(own.read_bytes())
                status = own.stat()
                os.utime(index, ns=(status.st_atime_ns, status.st_mtime_ns))
            objects = self.git("rev-parse", "--path-format=absolute", "--git-path", "objects").strip()
            there = {
                "GIT_INDEX_FILE": str(index),
                "GIT_OBJECT_DIRECTORY": str(Path(scratch, "objects")),
                "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects,
            }
            Path(scratch, "objects").mkdir()
            self.git("add", "-A", "--sparse", **there)
            self.listing = self.git("ls-files", "-z", "--stage", **there)
            return self.git("write-tree", **there).strip()

    def state(self) -> dict[str, tuple[int, int, bytes]]:
        """Every file below the root, `.git` included: mode, time of change, bytes."""
        return {
            str(path.relative_to(self.root)): (
                path.lstat().st_mode,
                path.lstat().st_mtime_ns,
                b"" if not path.is_file() or path.is_symlink() else path.read_bytes(),
            )
            for path in sorted(self.root.rglob("*"))
        }


def clone(repo: Repo, path: Path, *arguments: str) -> Repo:
    subprocess.run(["git", "clone", "-q", *arguments, str(path)], env=repo.environ, check=True, capture_output=True)
    return Repo(path)


def proved(snapshot: Snapshot) -> Verification:
    """Verified by a manifest that no job could write."""
    manifest = snapshot.path.with_name(f"{snapshot.path.name}.json")
    if not manifest.exists():
        manifest.write_bytes(manifest_bytes(snapshot.path))
    return verify(snapshot.path, environ=ENVIRONMENT, tree_sha=snapshot.tree_sha, manifest_file=manifest)


def contents(root: Path) -> dict[str, tuple[str, bytes]]:
    """Every file and link below `root` but for `.git`: its mode as git has it, and its bytes."""
    result: dict[str, tuple[str, bytes]] = {}
    for here, directories, files in os.walk(root):
        directories[:] = [name for name in directories if name != ".git"]
        for name in [*files, *(name for name in directories if os.path.islink(os.path.join(here, name)))]:
            path = os.path.join(here, name)
            relative = os.path.relpath(path, root)
            if relative == ".git" or relative.endswith("/.git"):
                continue
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                result[relative] = ("120000", os.fsencode(os.readlink(path)))
            else:
                assert stat.S_IMODE(status.st_mode) in (0o644, 0o755), oct(status.st_mode)
                result[relative] = ("100755" if status.st_mode & 0o100 else "100644", Path(path).read_bytes())
    return result


def on_disk(root: Path, path: str) -> tuple[str, bytes]:
    status = os.lstat(root / path)
    if stat.S_ISLNK(status.st_mode):
        return "120000", os.fsencode(os.readlink(root / path))
    return "100755" if status.st_mode & 0o100 else "100644", (root / path).read_bytes()


def check(repo: Repo, snapshot: Snapshot, *, status: bool = True, cloned: Path | None = None) -> None:
    """The workspace is exactly what git would commit, byte for byte as on disk, and git there says the same as here.

    `cloned`: line endings are those of this checkout.
    """
    assert snapshot.tree_sha == repo.would_commit()
    expected = {}
    for item in repo.listing.split("\0")[:-1]:
        about, path = item.split("\t", 1)
        if not about.startswith("160000"):
            expected[path] = on_disk(repo.root, path)
    for path, (mode, content) in contents(cloned).items() if cloned is not None else ():
        if content.replace(b"\r\n", b"\n") == expected[path][1].replace(b"\r\n", b"\n"):
            expected[path] = mode, content
    submodules = tuple(f"{sub.path}/" for sub in snapshot.submodules)
    there = {path: value for path, value in contents(snapshot.path).items() if not path.startswith(submodules)}
    assert there == expected
    inside = Repo(snapshot.path, repo.environ)
    if status:
        both = ("status", "--porcelain", "-z", "--untracked-files=all", "--ignore-submodules=none")
        assert inside.git(*both) == repo.git(*both)
    inside.git("fsck", "--strict")
    assert inside.git("rev-parse", "HEAD").strip() == snapshot.head_sha


@pytest.fixture(autouse=True)
def _lendable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects may be lent from the tests' directory, also where that is in /dev/shm."""
    monkeypatch.setattr(source, "_TAKEN_IN_CONTAINERS", ("/workspace", "/proc", "/sys"))


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository without a commit, to be copied: that takes a fraction of what git takes to make it."""
    made = Repo(tmp_path_factory.mktemp("empty") / "repository")
    made.root.mkdir()  # with the usual mode
    made.git("init", "-q", "--template=")
    (made.root / ".git/info").mkdir()
    return made.root


@pytest.fixture(scope="session")
def committed(empty: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a commit, to be copied."""
    made = Repo(shutil.copytree(empty, tmp_path_factory.mktemp("committed") / "repository"))
    made.write("README", "hello\n")
    made.write("src/main.py", "print(1)\n")
    made.write("docs/page.md", "page\n")
    made.commit("first")
    return made.root


@pytest.fixture
def new_repo(tmp_path: Path, empty: Path) -> NewRepo:
    return lambda name: Repo(shutil.copytree(empty, tmp_path / name))


@pytest.fixture
def repo(new_repo: NewRepo) -> Repo:
    """An empty repository without a commit."""
    return new_repo("source")


@pytest.fixture
def work(tmp_path: Path, committed: Path) -> Repo:
    """A repository with a commit."""
    made = Repo(shutil.copytree(committed, tmp_path / "source"))
    made.git("update-index", "-q", "--refresh")
    return made


@pytest.fixture
def snap(tmp_path: Path) -> Callable[..., Snapshot]:
    """Takes a snapshot of a repository into a new workspace."""
    count = 0

    def _take(repo: Repo, start: Path | None = None, **environ: str) -> Snapshot:
        nonlocal count
        count += 1
        workspace = tmp_path / f"workspace-{count}"
        workspace.mkdir()
        found = discover(
            start or repo.root, environ=repo.environ | environ, filters=lambda _: True, lends=lambda _: True
        )
        return take(found, workspace, cancel=Cancel())

    return _take
