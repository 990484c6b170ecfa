"""Caches from an attacker: another repository, a branch under review, another user of the machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from loom.errors import CacheError
from loom.plan.model import Cache as Spec
from loom.storage.cache import Cache
from loom.storage.cache_keys import project_of
from loom.storage.workspace import DirectoryView
from tests.support.loom_process import run_loom
from tests.support.repository import git

pytestmark = pytest.mark.slow

SPEC = Spec(paths=("deps/",), key="k", fallback_keys=("k",))
ORIGIN = "git@example.org:victim/app.git"
SOMEBODY = 12345
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can play another user")


def store(folder: Path, project: str = "p", *, protected: bool = False) -> Cache:
    return Cache(folder, max_size=1 << 30, project=project, clock=time.time, protected=protected)


def save(cache: Cache, root: Path, content: str) -> str | None:
    (root / "deps").mkdir(parents=True, exist_ok=True)
    (root / "deps/file").write_text(content)
    return cache.save(SPEC, "k", DirectoryView(root), lambda stream, data: None).warning


def restored(cache: Cache, directory: Path) -> tuple[str | None, str | None]:
    """What was in the cache (None: a miss), and the warning."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    found = cache.restore(SPEC, "k", DirectoryView(directory), lambda stream, data: None)
    return ((directory / "deps/file").read_text() if found.hit != "miss" else None), found.warning


def repository(root: Path, origin: str = ORIGIN) -> Path:
    root.mkdir()
    git(root, "init", "-q")
    git(root, "remote", "add", "origin", origin)
    (root / "file").write_text("1")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "one")
    return root


# Another repository


def test_a_repository_with_the_origin_of_another_has_caches_of_its_own(tmp_path: Path) -> None:
    victim, evil = repository(tmp_path / "victim"), repository(tmp_path / "evil")
    assert project_of(ORIGIN, victim) != project_of(ORIGIN, evil)


def test_a_repository_that_points_at_another_ones_git_directory_has_caches_of_its_own(tmp_path: Path) -> None:
    victim = repository(tmp_path / "victim")
    genuine = tmp_path / "worktree"
    git(victim, "worktree", "add", "-q", str(genuine))
    assert project_of(ORIGIN, genuine) == project_of(ORIGIN, victim), "a linked worktree is the same repository"
    for number, target in enumerate((victim / ".git", victim / ".git/worktrees/worktree", Path("../victim/.git"))):
        evil = tmp_path / f"evil{number}"
        evil.mkdir()
        (evil / ".git").write_text(f"gitdir: {target}\n")
        assert project_of(ORIGIN, evil) == f"{evil} (example.org/victim/app)"
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / ".git").symlink_to(victim / ".git")
    assert str(linked) in project_of(ORIGIN, linked)
    waiting = tmp_path / "waiting"
    waiting.mkdir()
    os.mkfifo(waiting / ".git")
    assert str(waiting) in project_of(ORIGIN, waiting)


def test_a_fake_worktree_of_ones_own_is_no_way_in(tmp_path: Path) -> None:
    """Both sides name each other, but the other side is the attacker's too: its repository is the attacker's."""
    victim = repository(tmp_path / "victim")
    evil = tmp_path / "evil"
    fake = evil / "sub/.git/worktrees/x"
    fake.mkdir(parents=True)
    (evil / ".git").write_text(f"gitdir: {fake}\n")
    (fake / "gitdir").write_text(f"{evil}/.git\n")
    (fake / "commondir").write_text(f"{victim}/.git\n")
    assert project_of(None, evil) == str(evil / "sub")


def test_an_entry_that_was_copied_to_another_repository_is_none(tmp_path: Path) -> None:
    save(store(tmp_path / "cache", "theirs"), tmp_path / "w", "theirs")
    (entry,) = (tmp_path / "cache/entries").glob("*/*.json")
    save(store(tmp_path / "cache", "mine"), tmp_path / "w", "mine")
    (mine,) = set((tmp_path / "cache/entries").glob("*/*.json")) - {entry}
    mine.write_bytes(entry.read_bytes())
    assert restored(store(tmp_path / "cache", "mine"), tmp_path / "next")[0] is None
    (mine.parent / entry.name).write_bytes(entry.read_bytes())
    assert restored(store(tmp_path / "cache", "mine"), tmp_path / "next")[0] is None


# Another user of the machine


@as_root
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    save(store(folder), tmp_path / "w", "planted")
    assert restored(store(folder), tmp_path / "next")[0] == "planted"
    os.chown(folder, SOMEBODY, SOMEBODY)
    content, warning = restored(store(folder), tmp_path / "next")
    assert content is None
    assert f"belongs to another user (uid {SOMEBODY})" in (warning or "")
    assert "belongs to another user" in (save(store(folder), tmp_path / "w", "mine") or "")
    with pytest.raises(CacheError, match="belongs to another user"):
        store(folder).entries()


@as_root
def test_a_folder_in_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "dot-cache" / "loom"
    save(store(folder), tmp_path / "w", "mine")
    os.chown(folder.parent, SOMEBODY, SOMEBODY)
    content, warning = restored(store(folder), tmp_path / "next")
    assert content is None
    assert "lies in a directory of another user" in (warning or "")


@as_root
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_a_folder_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "cache"
    save(store(folder), tmp_path / "w", "mine")
    os.chown(folder, -1, SOMEBODY)
    folder.chmod(mode)
    content, warning = restored(store(folder), tmp_path / "next")
    assert content is None
    assert "may be written by others" in (warning or "")


@as_root
def test_a_link_that_another_user_made_is_refused_and_ones_own_is_followed(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    save(store(tmp_path / "large-disk"), tmp_path / "w", "mine")
    folder.symlink_to(tmp_path / "large-disk")
    assert restored(store(folder), tmp_path / "next")[0] == "mine"
    os.chown(folder, SOMEBODY, SOMEBODY, follow_symlinks=False)
    content, warning = restored(store(folder), tmp_path / "next")
    assert content is None
    assert "is a link that another user made" in (warning or "")


def test_a_new_folder_is_closed_to_others(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        save(store(tmp_path / "dot-cache/loom"), tmp_path / "w", "mine")
    finally:
        os.umask(before)
    assert (tmp_path / "dot-cache/loom").stat().st_mode & 0o777 == 0o700
    assert not (tmp_path / "dot-cache").stat().st_mode & 0o022
    assert restored(store(tmp_path / "dot-cache/loom"), tmp_path / "next")[0] == "mine"


@as_root
@pytest.mark.parametrize("command", [("run", "--local"), ("runs", "--all"), ("clean", "--all"), ("trust",)])
def test_a_state_directory_of_another_user_is_refused(checkout: Checkout, command: tuple[str, ...]) -> None:
    """Its records and decisions of trust would be somebody else's."""
    planted = checkout.base / "planted"
    (planted / "runs").mkdir(parents=True)
    os.chown(planted, SOMEBODY, SOMEBODY)
    done = checkout.loom(*command, LOOM_STATE_DIR=str(planted))
    assert done.returncode == 3, done.stdout + done.stderr
    assert f"{planted} can't be used: it belongs to another user" in done.stderr
    assert "LOOM_STATE_DIR" in done.stderr


@as_root
def test_nothing_is_deleted_by_way_of_a_planted_folder(tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    letter = tmp_path / "documents/letter"
    letter.write_text("mine")
    os.utime(letter, (1_000_000_000, 1_000_000_000))
    planted = tmp_path / "cache"
    planted.mkdir()
    (planted / "tmp").symlink_to(letter.parent)
    os.chown(planted, SOMEBODY, SOMEBODY)
    restored(store(planted), tmp_path / "next")
    save(store(planted), tmp_path / "w", "mine")
    with pytest.raises(CacheError):
        store(planted).remove(())
    assert letter.exists()


def a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def deep(path: Path) -> None:
    path.write_text("[" * 100_000)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("damage", [a_fifo, a_directory, a_link, deep])
@pytest.mark.parametrize("which", ["entries/*/*.json", "blobs/*/*"])
def test_files_of_any_kind_are_misses_and_nothing_waits(
    tmp_path: Path, which: str, damage: Callable[[Path], None]
) -> None:
    folder = tmp_path / "cache"
    save(store(folder), tmp_path / "w", "mine")
    (path,) = folder.glob(which)
    damage(path)
    assert restored(store(folder), tmp_path / "next")[0] is None
    store(folder).remove(store(folder).entries())


# A branch under review


def test_what_another_branch_saved_is_never_read_by_a_protected_one(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    assert save(store(folder), tmp_path / "w", "poisoned") is None
    assert restored(store(folder, protected=True), tmp_path / "next")[0] is None, "neither by key nor as a fallback"
    save(store(folder, protected=True), tmp_path / "w", "clean")
    save(store(folder), tmp_path / "w", "poisoned again")
    assert restored(store(folder, protected=True), tmp_path / "next")[0] == "clean"
    assert restored(store(folder), tmp_path / "next")[0] == "poisoned again"


def test_another_branch_begins_with_the_protected_ones_cache(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    save(store(folder, protected=True), tmp_path / "w", "clean")
    assert restored(store(folder), tmp_path / "next")[0] == "clean"
    shape = [json.loads(path.read_text())["protected"] for path in (folder / "entries").glob("*/*.json")]
    assert shape == [True]


WORKFLOW = """\
version: v1
stages: [test]
one:
  stage: test
  cache: {key: k, paths: [deps/]}
  script:
    - cat deps/file || true
    - mkdir -p deps && printf '%s' "$(cat content)" > deps/file
"""


class Checkout:
    """A repository with a job that shows what was cached, and then caches the content of a file."""

    def __init__(self, base: Path) -> None:
        self.root = repository(base / "repo")
        self.base = base
        (base / "home").mkdir()
        (self.root / ".loom").mkdir()
        (self.root / ".loom/workflow.yml").write_text(WORKFLOW)
        self.commit("from main")

    def commit(self, content: str) -> None:
        (self.root / "content").write_text(content)
        git(self.root, "add", "-A")
        git(self.root, "commit", "-qm", content)

    def loom(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return run_loom(arguments, cwd=self.root, environ={**self.environ, **environ})

    @property
    def environ(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.base / "home"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "TMPDIR": str(self.base),
            "LOOM_CONTAINER": "0",
        }

    def cached(self, **environ: str) -> str:
        """What a run finds in its cache."""
        done = self.loom("run", "--local", "--stream", **environ)
        assert done.returncode == 0, done.stdout + done.stderr
        return self.loom("logs", "last", "one", "1").stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


NOTHING = "cat: deps/file: No such file or directory"


def test_a_branch_under_review_does_not_reach_the_cache_of_main(checkout: Checkout) -> None:
    git(checkout.root, "switch", "-qc", "review")
    checkout.commit("evil")
    assert checkout.cached() == NOTHING
    assert checkout.cached() == "evil"
    git(checkout.root, "switch", "-q", "main")
    assert checkout.cached() == NOTHING
    assert checkout.cached() == "from main"
    (checkout.root / "content").write_text("a patch that is tried out on main")
    assert checkout.cached() == "evil", "with changes it is no run of main as it was committed"
    git(checkout.root, "checkout", "-q", ".")
    assert checkout.cached() == "from main"
    git(checkout.root, "checkout", "-q", "--detach")
    checkout.commit("evil too")
    checkout.cached()
    git(checkout.root, "switch", "-q", "main")
    assert checkout.cached() == "from main"


def test_which_branches_are_protected_is_for_the_user_to_say(checkout: Checkout) -> None:
    git(checkout.root, "switch", "-qc", "release/1")
    checkout.commit("from the release")
    assert checkout.cached(LOOM_PROTECTED_BRANCHES="release/*") == NOTHING
    git(checkout.root, "switch", "-q", "main")
    assert checkout.cached() == "from the release", "protected branches share their caches"
    git(checkout.root, "switch", "-qc", "other")
    assert checkout.cached() == "from main", "read from the protected branches"
    checkout.commit("from other")
    checkout.cached()
    git(checkout.root, "switch", "-q", "release/1")
    assert checkout.cached() == "from other", "not protected without the setting"
    assert checkout.cached(LOOM_PROTECTED_BRANCHES="release/*") == "from main"


def test_a_repository_protects_no_branch_of_its_own(checkout: Checkout) -> None:
    git(checkout.root, "switch", "-qc", "other")
    checkout.commit("from other")
    checkout.cached()
    (checkout.root / ".loom/config.yml").write_text("protected_branches: [mine]\n")
    git(checkout.root, "switch", "-qc", "mine")
    assert checkout.cached() == "from other", "a branch like any other"
    assert '`protected_branches: ["mine"]` is ignored' in checkout.loom("run", "--local").stderr
