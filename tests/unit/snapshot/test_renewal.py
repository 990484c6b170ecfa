"""A workspace that was filled before and is brought up to date equals one that is filled now, whatever happened in between."""

import errno
import mmap
import os
import shutil
import signal
import stat
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import Phase, given, reject, settings
from hypothesis import strategies as st

from loom.cancel import Cancel
from loom.errors import SnapshotError
from loom.snapshot import Snapshot, Source, WatchedWorkspace, discover, hand_over, occupied, take
from loom.snapshot.renewal import files_in, keep_known, take_known, take_out
from tests.support.effort import fuzzed
from tests.support.waiting import until

from .conftest import Repo, proved
from .test_random import do, place, steps


def laid_out(workspace: Path, without_times: frozenset[str]) -> dict[str, tuple[int, object, object]]:
    """All that is in a workspace but what says when it was made: type and mode, content, and time of a file or link."""
    found: dict[str, tuple[int, object, object]] = {}
    for path in sorted(workspace.rglob("*")):
        name, status = os.fsdecode(os.path.relpath(path, workspace)), path.lstat()
        if path.name in ("loom-snapshot.json", "index") or name.startswith(".git/objects"):
            continue
        made = name.startswith(".git/") or path.name == ".git" or name in without_times
        time_ns = None if made else status.st_mtime_ns
        if stat.S_ISLNK(status.st_mode):
            found[name] = (status.st_mode, str(path.readlink()), time_ns)
        elif stat.S_ISREG(status.st_mode):
            found[name] = (status.st_mode, path.read_bytes(), time_ns)
        else:
            found[name] = (status.st_mode, None, None)
    return found


def told(snapshot: Snapshot) -> dict[str, Any]:
    return {
        name: value for name, value in snapshot.document().items() if not name.startswith(("path", "duration", "left"))
    } | {"left_out": sorted(map(str, snapshot.left_out))}


def settled(root: Path) -> None:
    """Wait until the kernel's clock has left the times of all files behind: younger ones are copied again."""
    newest = max(path.lstat().st_ctime_ns for path in (root, *root.rglob("*")))
    until(lambda: time.time_ns() - newest > 50_000_000)


def age(root: Path) -> None:
    """Let git's index vouch for the files that are added now: it does not for those of its own second."""
    for path in root.rglob("*"):
        if ".git" not in path.parts:
            os.utime(path, ns=(0, time.time_ns() - 10**10), follow_symlinks=False)


def known(workspace: Path) -> Path:
    return workspace.with_name(f"{workspace.name}.known")


def trusted(repo: Repo) -> Source:
    """With the filters of its own configuration, as git has them."""
    return discover(repo.root, environ=repo.environ, filters=lambda _: True)


def fill(repo: Repo, workspace: Path, watched: WatchedWorkspace | None = None) -> Snapshot:
    return take(trusted(repo), workspace, cancel=Cancel(), known=known(workspace), watched=watched)


def equal_to_a_new_one(repo: Repo, top: Path, renewed: Snapshot) -> None:
    fresh = top / "fresh"
    fresh.mkdir()
    taken = take(trusted(repo), fresh, cancel=Cancel())
    assert told(renewed) == told(taken)
    listed = repo.git("ls-files", "-v", "-z").split("\0")
    hidden = frozenset(line[2:] for line in listed if line.startswith(("S", "s", "h")))  # git lays them out, now
    assert laid_out(renewed.path, hidden) == laid_out(fresh, hidden)
    assert proved(renewed).same


of_a_job = st.sampled_from(
    [("write", "dir/kept", b"other\n", False), ("replace", "dir/kept", "link"), ("chmod", "dir/kept", True)]
)
"""In a file that was kept."""


@pytest.mark.slow
@settings(fuzzed(12, 60), phases=(Phase.reuse, Phase.generate))  # making a failing example smaller takes minutes
@given(
    before=st.lists(steps, max_size=10),
    rounds=st.lists(
        st.tuples(st.lists(steps, max_size=6), st.lists(steps | of_a_job, max_size=4)), min_size=1, max_size=3
    ),
)
def test_whatever_happened_in_between(
    before: list[tuple[Any, ...]], rounds: list[tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]]
) -> None:
    """In the source, and in the workspace. Of several rounds, a later one may find the index of the one before."""
    with place() as top:
        (top / "source").mkdir()
        repo = Repo(top / "source")
        repo.git("init", "-q")
        for step in (("write", "dir/kept", b"kept\n", False), *before):
            do(repo, step)
        age(repo.root)
        for step in (("add_all",), ("commit",)):
            do(repo, step)
        settled(repo.root)
        workspace = top / "workspace"
        workspace.mkdir()
        try:
            taken = fill(repo, workspace)
        except SnapshotError:
            reject()
        assert workspace == taken.path
        for after, job in rounds:
            for step in after:
                do(repo, step)
            for step in job:
                do(Repo(workspace, repo.environ), step)
            try:
                renewed = fill(repo, workspace)
            except SnapshotError:
                assert list(workspace.iterdir()) == []
                with pytest.raises(SnapshotError):
                    take(trusted(repo), workspace, cancel=Cancel(), known=known(workspace))
                return
            equal_to_a_new_one(repo, top, renewed)
            shutil.rmtree(top / "fresh")
            (top / "workspace.json").unlink()  # the manifest of this round
            try:
                expected = repo.would_commit()
            except AssertionError:
                return  # git itself can't add what is there
            assert renewed.tree_sha == expected


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    (tmp_path / "source").mkdir()
    repo = Repo(tmp_path / "source")
    repo.git("init", "-q")
    for number in range(20):
        repo.write(f"dir{number % 3}/file{number}", f"{number}\n")
    repo.link("dir0/link", "file0")
    repo.write(".gitignore", "build/\n")
    age(repo.root)
    repo.commit()
    settled(repo.root)
    return repo


def files_of(workspace: Path) -> dict[Path, tuple[int, int]]:
    """What tells a file from a later one, which may have its inode number again."""
    return {path: ((status := path.lstat()).st_ino, status.st_ctime_ns) for path in workspace.glob("dir*/*")}


def test_only_what_changed_is_copied_and_the_directory_stays(repo: Repo, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    fill(repo, workspace)
    directory, before = workspace.stat().st_ino, files_of(workspace)
    repo.write("dir1/file1", "c\n")  # as long as before
    os.utime(repo.root / "dir1/file1", ns=(0, time.time_ns() - 5 * 10**9))  # so that git's index vouches for it
    repo.write("dir9/new", "new\n")
    (repo.root / "dir2/file2").unlink()
    shutil.rmtree(repo.root / "dir0")
    repo.write("dir0", "a file where a directory was\n")
    repo.commit("second")
    repo.write("dir1/file4", "uncommitted\n")
    shutil.rmtree(repo.root / "dir2")
    repo.write("dir2", "a new file where a directory was\n")
    renewed = fill(repo, workspace)
    after = files_of(workspace)
    assert workspace.stat().st_ino == directory
    assert {path.name for path in after if before.get(path) != after[path]} == {"file1", "file4", "new"}
    equal_to_a_new_one(repo, tmp_path, renewed)
    for path in ("fresh", "workspace.json"):
        shutil.move(tmp_path / path, tmp_path / f"{path}.first")
    repo.write("dir1/file1", "d\n")  # and the index is that of the last time
    repo.write("dir1/file4", "uncommitted again\n")
    repo.write("dir9/newer", "new\n")
    (workspace / "dir9/new").unlink()
    renewed, before = fill(repo, workspace), after
    after = files_of(workspace)
    assert workspace.stat().st_ino == directory
    assert {path.name for path in after if before.get(path) != after[path]} == {"file1", "file4", "new", "newer"}
    equal_to_a_new_one(repo, tmp_path, renewed)
    for path in ("fresh", "workspace.json"):
        shutil.move(tmp_path / path, tmp_path / f"{path}.second")
    stored = {path: path.stat().st_ino for path in (workspace / ".git/objects").rglob("*") if path.is_file()}
    # Each time with another index, of which git's own comparison finds no change.
    for path, content in (("dir1/file3", "added\n"), ("dir1/file7", "$Id$\n")):
        repo.write(path, content)
        os.utime(repo.root / path, ns=(0, time.time_ns() - 10**10))
        repo.git("add", path)
        renewed = fill(repo, workspace)
        assert (workspace / path).read_text() == content
        apart = msgspec.msgpack.decode(known(workspace).read_bytes())["apart"]
        assert (workspace / "dir1/file10").exists()
        assert b"dir1/file10" not in apart, "the index vouches for it"
    assert stored
    assert all(path.stat().st_ino == inode for path, inode in stored.items()), "no object is copied again"
    repo.write(".gitattributes", "dir1/file7 ident\n")
    repo.git("add", ".gitattributes")  # the file that was added before it is kept, and written again
    fill(repo, workspace)
    before = files_of(workspace)
    renewed = fill(repo, workspace)
    assert {path.name for path, facts in files_of(workspace).items() if before.get(path) != facts} == {"file7"}
    equal_to_a_new_one(repo, tmp_path, renewed)


@pytest.mark.slow
def test_a_file_of_the_second_of_the_index_has_its_own_time(repo: Repo, tmp_path: Path) -> None:
    """git reads such a file again, and finds it unchanged."""
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    fill(repo, workspace)
    file, index = repo.root / "dir1/file1", repo.root / ".git/index"

    def in_one_second() -> bool:
        repo.write("dir1/file1", "c\n")
        time_ns, written_s = time.time_ns(), file.stat().st_ctime_ns // 10**9
        os.utime(file, ns=(0, time_ns))
        repo.git("add", "dir1/file1")
        until(lambda: time.time_ns() - time_ns > 50_000_000)
        fill(repo, workspace)
        os.utime(file, ns=(0, time_ns + 1))
        return file.stat().st_ctime_ns // 10**9 == written_s

    until(in_one_second)
    (repo.root / "dir2/file2").unlink()
    repo.git("rm", "-q", "--cached", "dir2/file2")
    os.utime(index, ns=(0, file.stat().st_mtime_ns))
    equal_to_a_new_one(repo, tmp_path, fill(repo, workspace))


def test_a_mode_that_counts_differently_now_is_that_of_a_new_one(repo: Repo, tmp_path: Path) -> None:
    repo.git("config", "core.fileMode", "false")
    (repo.root / "dir1/file1").chmod(0o755)
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    fill(repo, workspace)
    repo.git("config", "core.fileMode", "true")
    equal_to_a_new_one(repo, tmp_path, fill(repo, workspace))


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["core.trustctime=false", "core.checkStat=minimal"])
def test_an_edit_under_the_same_time_counts_also_where_the_users_git_sees_none(
    repo: Repo, tmp_path: Path, setting: str
) -> None:
    repo.git("config", *setting.split("="))
    age(repo.root)
    repo.git("add", "-A")
    settled(repo.root)
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    fill(repo, workspace)
    file = repo.root / "dir1/file1"
    before = file.stat()
    until(lambda: time.time() > before.st_ctime // 1 + 1.1)  # git compares seconds
    file.write_bytes(b"x" * before.st_size)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    renewed = fill(repo, workspace)
    assert [change.path for change in renewed.changed] == ["dir1/file1"]
    equal_to_a_new_one(repo, tmp_path, renewed)


def test_what_git_lays_out_is_laid_out_again(repo: Repo, tmp_path: Path) -> None:
    for path in ("module", "nested"):
        (repo.root / path).mkdir()
        inner = Repo(repo.root / path)
        inner.git("init", "-q")
        inner.write("inside/file", "inside\n")
        inner.commit()
    repo.write(".gitmodules", '[submodule "m"]\n\tpath = module\n\turl = ./m\n')
    repo.git("add", ".gitmodules", "module")
    repo.git("config", "core.autocrlf", "input")
    repo.write("dir1/windows", "a\r\nb\r\n")
    repo.git("add", "dir1/windows")
    repo.git("update-index", "--assume-unchanged", "dir1/file1")
    repo.write("dir1/file1", "hidden\n")
    settled(repo.root)
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    fill(repo, workspace)
    copies = take_known(known(workspace))
    assert copies is not None
    assert "dir1/windows" not in files_in(copies.files), "it was written again after its copy"
    keep_known(copies, known(workspace))
    before = files_of(workspace)
    for path in ("module/inside/file", "dir1/file1", "dir1/windows", ".git/modules/m/HEAD"):
        (workspace / path).write_text("of a job\n")
    (workspace / "nested/new").write_text("of a job\n")
    repo.write("module/inside/file", "changed\n")
    renewed = fill(repo, workspace)
    after = files_of(workspace)
    assert {path.name for path in after if before.get(path) != after[path]} == {"file1", "windows"}
    assert (workspace / "module/inside/file").read_text() == "changed\n"
    equal_to_a_new_one(repo, tmp_path, renewed)


def in_place(workspace: Path) -> None:
    file = workspace / "dir1/file1"
    status = file.stat()
    file.write_text("0\n")  # as long as before
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def replaced(workspace: Path) -> None:
    file = workspace / "dir1/file1"
    status = file.stat()
    (workspace / "other").write_text("0\n")
    os.utime(workspace / "other", ns=(status.st_atime_ns, status.st_mtime_ns))
    (workspace / "other").replace(file)


def mapped(workspace: Path) -> None:
    file = workspace / "dir1/file1"
    status = file.stat()
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as memory:
        memory[0:1] = b"0"
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def through_a_link(workspace: Path) -> None:
    other = workspace.with_name("name-of-the-same-file")
    os.link(workspace / "dir1/file1", other)
    other.write_text("0\n")


def relinked(workspace: Path) -> None:
    (workspace / "dir0/link").unlink()
    (workspace / "dir0/link").symlink_to("file3")


def directory_as_link(workspace: Path) -> None:
    (workspace / "dir1").rename(workspace / "build")
    (workspace / "dir1").symlink_to("build")


def file_as_directory(workspace: Path) -> None:
    (workspace / "dir1/file1").unlink()
    (workspace / "dir1/file1/below").mkdir(parents=True)


def directory_as_file(workspace: Path) -> None:
    shutil.rmtree(workspace / "dir1")
    (workspace / "dir1").write_text("a file\n")


def more_files(workspace: Path) -> None:
    (workspace / "build/deep").mkdir(parents=True)
    (workspace / "build/deep/ignored").write_text("a result\n")
    (workspace / "dir1/new").write_text("untracked\n")
    (workspace / "empty").mkdir()
    os.mkfifo(workspace / "dir1/pipe")


def closed_directory(workspace: Path) -> None:
    (workspace / "dir1").chmod(0)


def open_directory(workspace: Path) -> None:
    (workspace / "dir1").chmod(0o2777)


def own_git(workspace: Path) -> None:
    (workspace / ".git/config").write_text("[core]\n\thooksPath = /tmp\n")
    (workspace / ".git/info/exclude").write_text("dir1\n")
    (workspace / ".git/hooks").mkdir()


def objects(workspace: Path) -> None:
    (workspace / ".git/objects/info/alternates").write_text("/tmp\n")
    (workspace / ".git/objects/ab").mkdir(exist_ok=True)
    (workspace / ".git/objects/ab" / ("c" * 38)).write_bytes(b"no object")
    there = next(path for path in sorted((workspace / ".git/objects").glob("??/*")) if path.name != "c" * 38)
    there.chmod(0o644)
    there.write_bytes(b"no object")


def no_git(workspace: Path) -> None:
    shutil.rmtree(workspace / ".git")


TAMPERED = [
    in_place,
    replaced,
    mapped,
    through_a_link,
    relinked,
    directory_as_link,
    file_as_directory,
    directory_as_file,
    more_files,
    closed_directory,
    open_directory,
    own_git,
    objects,
    no_git,
    lambda workspace: (workspace / "dir1/file4").chmod(0o777),
    lambda workspace: (workspace / "dir1/file4").unlink(),
    lambda workspace: os.truncate(workspace / "dir1/file4", 0),
    lambda workspace: (workspace / ".git/index").write_bytes(b""),
    lambda workspace: shutil.rmtree(workspace / "dir0"),
    lambda workspace: (workspace / ".git/objects").chmod(0o700),
]


@pytest.mark.parametrize("tamper", TAMPERED)
@pytest.mark.parametrize(
    "how", ["here", *(pytest.param(how, marks=pytest.mark.slow) for how in ("elsewhere", "watched"))]
)
def test_what_something_did_in_the_workspace_is_undone(
    repo: Repo, tmp_path: Path, tamper: Callable[[Path], None], how: str
) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    fill(repo, workspace)
    watched = WatchedWorkspace(workspace, known(workspace)) if how == "watched" else None
    if watched and tamper is through_a_link:
        pytest.skip("the kernel does not tell of it (docs/explanation/workspace.md)")
    tamper(workspace)
    repo.write("dir2/file2", "changed\n")
    if how == "elsewhere":
        there = tmp_path / "next"
        assert hand_over(workspace, known(workspace), there, known(there), stripped=True)
        assert not workspace.exists()
        assert not known(workspace).exists()
        workspace = there
    untouched = workspace / "dir2/file5"
    before = untouched.stat().st_ctime_ns
    equal_to_a_new_one(repo, tmp_path, fill(repo, workspace, watched))
    assert untouched.stat().st_ctime_ns == before


def test_a_workspace_is_untouched_as_long_as_the_kernel_tells_of_no_change(repo: Repo, tmp_path: Path) -> None:
    workspace, mark = tmp_path / "workspace", tmp_path / "workspace/.git/loom-filling"
    workspace.mkdir()
    for change, untouched in ((own_git, True), (in_place, False), (more_files, False)):
        fill(repo, workspace)
        watched = WatchedWorkspace(workspace, known(workspace))
        change(workspace)
        workspace.chmod(0o755)  # as `take` does before its mark
        mark.touch()
        assert watched.is_untouched() is untouched
        assert not watched.is_untouched(), "nobody watches any more"
    fill(repo, workspace)
    assert not WatchedWorkspace(workspace, known(workspace)).is_untouched(), (
        "without a mark, a change may be on its way"
    )
    in_place(workspace)
    watched = WatchedWorkspace(workspace, known(workspace))
    mark.touch()
    assert not watched.is_untouched(), "it changed before anybody watched"


def test_only_what_the_last_copy_finished_is_known(repo: Repo, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    fill(repo, workspace)
    kept = known(workspace).read_bytes()
    fill(repo, workspace)
    copies = take_known(known(workspace))
    assert copies is not None
    assert take_out(copies.files, ["dir1/file1"])
    keep_known(copies, known(workspace))
    fill(repo, workspace)
    assert (workspace / "dir1/file1").read_text() == "1\n"
    cancel = Cancel()
    cancel.request(None)
    with pytest.raises(SnapshotError):
        take(discover(repo.root, environ=repo.environ), workspace, cancel=cancel, known=known(workspace))
    assert not known(workspace).exists()
    known(workspace).write_bytes(kept)  # of files that are gone
    equal_to_a_new_one(repo, tmp_path, fill(repo, workspace))
    known(workspace).write_bytes(kept[:-1])
    assert not hand_over(workspace, known(workspace), tmp_path / "next", known(tmp_path / "next"), stripped=True)
    assert workspace.exists()


def test_a_workspace_in_use_stays(repo: Repo, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    fill(repo, workspace)
    with occupied(workspace):
        assert not hand_over(workspace, known(workspace), tmp_path / "next", known(tmp_path / "next"))
    assert hand_over(workspace, known(workspace), tmp_path / "next", known(tmp_path / "next"))
    assert not hand_over(workspace, known(workspace), tmp_path / "third", known(tmp_path / "third"))


CHANGES = {"open", "os.mkdir", "os.rename", "os.symlink", "os.utime"}
_due: list[tuple[int, Callable[[], None]]] = []
"""After how many changes of files something happens, and what."""


def count(event: str, arguments: tuple[Any, ...]) -> None:
    makes = event != "open" or (arguments[2] & os.O_CREAT and not isinstance(arguments[0], int))
    if _due and event in CHANGES and makes:
        left, happen = _due.pop()
        if left:
            _due.append((left - 1, happen))
        else:
            happen()


@pytest.fixture(scope="module")
def counted() -> None:
    sys.addaudithook(count)  # it can't be taken away again


def fill_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize("happen", [fill_disk, kill_itself])
def test_what_ends_a_renewal_half_way(repo: Repo, tmp_path: Path, happen: Callable[[], None]) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    fill(repo, workspace)
    for after in range(0, 30, 5):
        repo.write(f"dir{after % 3}/file{after % 5}", f"{after}\n")
        (workspace / "dir1/file4").write_text("of a job\n")
        process = os.fork() if happen is kill_itself else 0
        if process:
            assert os.waitpid(process, 0)[1] == signal.SIGKILL
        else:
            _due.append((after, happen))
            fill(repo, workspace)
            assert not _due, f"there are fewer changes: {_due}"
        renewed = fill(repo, workspace)
        equal_to_a_new_one(repo, tmp_path, renewed)
        shutil.rmtree(tmp_path / "fresh")
        (tmp_path / "workspace.json").unlink()
        (tmp_path / "fresh.json").unlink(missing_ok=True)


@pytest.mark.parametrize("by_s", [-3600, 3600])
def test_a_clock_that_jumps(repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_s: int) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + by_s * 10**9)
    fill(repo, workspace)
    repo.write("dir1/file1", "0\n")
    monkeypatch.undo()
    equal_to_a_new_one(repo, tmp_path, fill(repo, workspace))


def test_two_runs_at_once_do_not_get_the_same_workspace(repo: Repo, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    fill(repo, workspace)
    places = [tmp_path / f"next{number}" for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        got = list(pool.map(lambda place: hand_over(workspace, known(workspace), place, known(place)), places))
    assert sum(got) == 1
    assert [place.exists() for place in places] == got
    equal_to_a_new_one(repo, tmp_path, fill(repo, places[got.index(True)]))
