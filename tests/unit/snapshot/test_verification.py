"""What jobs do to a workspace, and what `verify` says about it; workspaces that go away; explanations; races; failures."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loom.cancel import Cancel
from loom.errors import SnapshotError
from loom.snapshot import (
    Snapshot,
    SnapshotCanceled,
    Verification,
    changed_since,
    discover,
    git,
    is_workspace,
    remove,
    take,
    verify,
)
from loom.snapshot.model import Change
from tests.support.loom_process import run_loom
from tests.support.waiting import promptly, until

from .conftest import ENVIRONMENT, Repo, check

Snap = Callable[..., Snapshot]
NewRepo = Callable[[str], Repo]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def work(repo: Repo) -> Repo:
    for number in range(20):
        repo.write(f"d{number % 4}/f{number}", f"{number}\n")
    repo.write("run.sh", "#!/bin/sh\n", 0o755)
    repo.write(".gitignore", "*.log\n")
    repo.commit()
    repo.write("d0/f0", "uncommitted\n")
    repo.write("new/file", "untracked\n")
    (repo.root / "d1/f1").unlink()
    return repo


# Proof


def test_verify_says_what_a_job_changed(work: Repo, snap: Snap) -> None:
    snapshot = snap(work)
    verified = verify(snapshot.path, environ=ENVIRONMENT, tree_sha=snapshot.tree_sha)
    assert verified.same
    assert verified.tree_sha == snapshot.tree_sha == work.would_commit()
    job = Repo(snapshot.path)
    job.write("d2/f2", "job\n")
    job.write("out/result", "made\n")
    job.write("out/ignored.log", "made\n")
    (job.root / "new/file").unlink()
    (job.root / "run.sh").chmod(0o644)
    (job.root / "d3/f3").unlink()
    job.link("d3/f3", "f7")
    before = job.state()
    verified = verify(snapshot.path, environ=ENVIRONMENT, tree_sha=snapshot.tree_sha)
    assert {change.path: change.kind for change in verified.changes} == {
        "d2/f2": "modified",
        "out/result": "added",
        "new/file": "deleted",
        "run.sh": "mode_changed",
        "d3/f3": "type_changed",
    }
    assert job.state() == before
    assert verified.tree_sha == job.would_commit()


def test_verify_is_not_fooled_by_the_workspaces_git(work: Repo, snap: Snap, tmp_path: Path) -> None:
    snapshot = snap(work)
    job = Repo(snapshot.path)
    status = (job.root / "d2/f2").stat()
    job.write("d2/f2", "3\n")  # as long as before, and with the same time
    os.utime(job.root / "d2/f2", ns=(status.st_atime_ns, status.st_mtime_ns))
    job.git("update-index", "--assume-unchanged", "d0/f4")
    job.write("d0/f4", "hidden\n")
    job.git("config", "core.fsmonitor", f"touch {tmp_path}/ran")
    job.git("config", "core.excludesFile", "/dev/null")
    (job.root / ".git/info/exclude").write_text("*\n")
    job.write("sneaked", "in\n")
    verified = verify(snapshot.path, environ=ENVIRONMENT, tree_sha=snapshot.tree_sha)
    assert {change.path for change in verified.changes} == {"d2/f2", "d0/f4", "sneaked"}
    assert not (tmp_path / "ran").exists()


def test_verify_names_what_took_the_place_of_files(work: Repo, snap: Snap) -> None:
    snapshot = snap(work)
    job = Repo(snapshot.path)
    (job.root / "d2/f2").unlink()
    os.mkfifo(job.root / "d2/f2")
    Repo(job.root).git("init", "-q", "unborn")
    job.write("unborn/hidden")
    verified = verify(snapshot.path, environ=ENVIRONMENT, tree_sha=snapshot.tree_sha)
    assert {change.path: change.kind for change in verified.changes} == {"d2/f2": "deleted"}
    assert verified.unreadable == (
        ("unborn", "a repository without a commit that git could name here, into which it does not look"),
    )
    assert not verified.same


def test_verify_after_commits_and_a_lost_index(work: Repo, snap: Snap) -> None:
    snapshot = snap(work)
    job = Repo(snapshot.path)
    job.git("add", "-A")
    job.git("commit", "-q", "-m", "by a job")
    job.git("gc", "-q", "--prune=now")
    (job.root / ".git/index").unlink()
    assert verify(snapshot.path, environ=ENVIRONMENT, tree_sha=snapshot.tree_sha).same


def test_verify_submodules(work: Repo, snap: Snap, new_repo: NewRepo) -> None:
    inner = new_repo("inner")
    inner.write("inner.txt", "inner\n")
    inner.commit()
    work.git("submodule", "add", "-q", str(inner.root), "sub")
    work.commit()
    Repo(work.root / "sub").write("inner.txt", "uncommitted\n")
    snapshot = snap(work)
    assert verify(snapshot.path, environ=ENVIRONMENT).same
    (snapshot.path / "sub/inner.txt").write_text("job\n")
    verified = verify(snapshot.path, environ=ENVIRONMENT)
    assert [change.path for change in verified.changes] == ["sub/inner.txt"]
    assert not verified.same


@pytest.mark.parametrize(
    ("moment", "copied", "expected"),
    [
        (0, False, ["gone", "new", "old"]),
        (0, True, ["new", "old"]),
        (5, True, ["new"]),
        (5, False, ["gone", "new", "old"]),
        (1e12, False, []),
    ],
)
def test_what_changed_after_a_moment(tmp_path: Path, moment: float, copied: bool, expected: list[str]) -> None:
    for name in ("new", "old"):
        (tmp_path / name).touch()
    os.utime(tmp_path / "old", (3, 3))
    changes = tuple(
        Change(path=path, kind=kind, old_mode="", mode="", old_sha="", sha="")
        for path, kind in (("gone", "deleted"), ("new", "added"), ("old", "modified"))
    )
    found = Verification(
        workspace=tmp_path,
        head_sha="",
        snapshot_tree_sha="",
        tree_sha="",
        changes=changes,
        unreadable=(),
        believed=True,
    )
    assert list(changed_since(found, moment, copied=copied)) == expected


def test_verify_has_to_have_something_to_go_by(work: Repo, snap: Snap, tmp_path: Path) -> None:
    snapshot = snap(work)
    manifest = snapshot.path / ".git/loom-snapshot.json"
    kept = manifest.read_bytes()
    with pytest.raises(SnapshotError, match="receipt"):
        verify(snapshot.path, environ=ENVIRONMENT, tree_sha="0" * 40)
    document = json.loads(kept)
    document["changed"].pop()
    manifest.write_text(json.dumps(document))
    with pytest.raises(SnapshotError, match="does not describe"):
        verify(snapshot.path, environ=ENVIRONMENT)
    manifest.write_text("{}")
    with pytest.raises(SnapshotError, match="manifest"):
        verify(snapshot.path, environ=ENVIRONMENT)
    # With a copy of the manifest, and the source's objects, even the whole .git may be gone.
    copy = tmp_path / "manifest.json"
    copy.write_bytes(kept)
    subprocess.run(["rm", "-rf", str(snapshot.path / ".git")], check=True)
    with pytest.raises(SnapshotError, match="not one of loom's"):
        verify(snapshot.path, environ=ENVIRONMENT)
    assert verify(snapshot.path, environ=ENVIRONMENT, manifest_file=copy, tree_sha=snapshot.tree_sha).same
    with pytest.raises(SnapshotError, match="gone"):
        verify(tmp_path / "never", environ=ENVIRONMENT)


# The record, as the engine keeps it: a link that jobs never see


@pytest.mark.parametrize(
    "command",
    [
        "git clean -ffdx",
        "git stash -u",
        "rm -rf * .[!.]*",
        "git add -A && git -c user.name=a -c user.email=a@b commit -qm x",
    ],
)
def test_a_job_neither_sees_nor_loses_the_record(work: Repo, snap: Snap, tmp_path: Path, command: str) -> None:
    record = tmp_path / "record"
    record.mkdir()
    (record / "receipt").write_text("kept")
    snapshot = snap(work)
    job = Repo(snapshot.path)
    assert not (snapshot.path / ".loom/.runtime").exists()
    subprocess.run(["sh", "-c", command], cwd=snapshot.path, env=ENVIRONMENT, check=True, capture_output=True)
    (snapshot.path / ".loom").mkdir(exist_ok=True)
    (snapshot.path / ".loom/.runtime").symlink_to(record)
    if (snapshot.path / ".git").is_dir():
        job.git("add", "-A")
        assert ".loom" not in job.git("ls-files")
        job.git("clean", "-ffdx")
    assert (record / "receipt").read_text() == "kept"


# Two at once, and edits meanwhile


def test_two_at_once_from_one_checkout(work: Repo, snap: Snap) -> None:
    taken: list[Snapshot] = []
    threads = [threading.Thread(target=lambda: taken.append(snap(work))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({snapshot.path for snapshot in taken}) == 3
    for snapshot in taken:
        check(work, snapshot)


EDITOR = """
import os, sys, time
root, until = sys.argv[1], time.time() + 20
n = 0
while time.time() < until and not os.path.exists(root + "/../stop"):
    n += 1
    for k in range(12):
        path = f"{root}/d{k % 4}/f{k}"
        kind = (n + k) % 6
        try:
            if os.path.isdir(path) and not os.path.islink(path):
                os.rename(path, f"{path}.{n}.log")
            if kind == 0: os.unlink(path)
            elif kind == 1: open(path, "w").write("x" * (n % 5000))
            elif kind == 2: open(path + ".tmp~", "w").write(str(n)); os.rename(path + ".tmp~", path)
            elif kind == 3: os.unlink(path); os.symlink("f7", path)
            elif kind == 4: os.unlink(path); os.mkdir(path); open(path + "/inside", "w").write("i")
            else: open(f"{root}/extra-{n % 50}", "w").write("e"); os.unlink(f"{root}/extra-{(n + 25) % 50}")
        except OSError:
            pass
"""


@pytest.mark.slow
def test_edits_during_the_copy_never_make_the_proof_lie(work: Repo, snap: Snap) -> None:
    editor = subprocess.Popen([sys.executable, "-c", EDITOR, str(work.root)])
    try:
        for _ in range(8):
            snapshot = snap(work)
            verified = verify(snapshot.path, environ=ENVIRONMENT, tree_sha=snapshot.tree_sha)
            assert verified.same, verified.changes
    finally:
        (work.root.parent / "stop").touch()
        editor.wait()


def test_a_file_that_comes_back_between_two_looks_is_copied(
    work: Repo, snap: Snap, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As an editor does that removes a file and writes it again: too quick to hit on purpose.
    really, away = os.open, ["f2"]

    def missed_once(path: str, *arguments: int, **places: int) -> int:
        if path in away:
            away.remove(path)
            raise FileNotFoundError(2, "No such file or directory", path)
        return really(path, *arguments, **places)

    monkeypatch.setattr(os, "open", missed_once)
    snapshot = snap(work)
    assert away == []
    assert (snapshot.path / "d2/f2").is_file()
    check(work, snapshot)


@pytest.mark.slow
def test_an_edit_that_keeps_size_and_time_is_seen(work: Repo, snap: Snap) -> None:
    old = time.time() - 1000
    for name in ("d2/f2", "d2/f6"):
        os.utime(work.root / name, (old, old))
    work.git("status")
    time.sleep(1.05)  # git tells change times apart by the second
    work.write("d2/f2", "7\n")
    os.utime(work.root / "d2/f2", (old, old))
    snapshot = snap(work)
    check(work, snapshot)
    assert "d2/f2" in {change.path for change in snapshot.changed}


# What fails leaves nothing


def failing(repo: Repo, tmp_path: Path, *, cancel: Cancel | None = None) -> SnapshotError:
    workspace = tmp_path / "failing"
    workspace.mkdir(exist_ok=True)
    with pytest.raises(SnapshotError) as caught:
        take(discover(repo.root, environ=repo.environ), workspace, cancel=cancel or Cancel())
    assert list(workspace.iterdir()) == []
    return caught.value


def test_interrupted(work: Repo, tmp_path: Path) -> None:
    cancel = Cancel()
    cancel.request()
    error = failing(work, tmp_path, cancel=cancel)
    assert isinstance(error, SnapshotCanceled)
    assert error.exit_code == 130


def test_interrupted_in_the_middle(work: Repo, tmp_path: Path) -> None:
    for number in range(3000):
        work.write(f"many/{number % 30}/{number}")
    cancel = Cancel()
    workspace = tmp_path / "w"
    workspace.mkdir()
    seen: list[int] = []

    def stop(done: int, total: int) -> None:
        seen.append(done)
        if done > 500:
            cancel.request()

    with pytest.raises(SnapshotCanceled):
        take(
            discover(work.root, environ=work.environ, filters=lambda _: True, lends=lambda _: True),
            workspace,
            cancel=cancel,
            on_progress=stop,
        )
    assert max(seen) < 3000
    assert list(workspace.iterdir()) == []


@pytest.mark.slow
def test_interrupted_while_a_filter_hangs(work: Repo, tmp_path: Path) -> None:
    work.write(".gitattributes", "*.slow filter=slow\n")
    started = tmp_path / "started"
    work.git("config", "filter.slow.clean", f"echo $$ >{started}; exec sleep 600")
    work.write("a.slow", "x")
    workspace = tmp_path / "w"
    workspace.mkdir()
    cancel = Cancel()

    def ask() -> None:
        while not started.exists() or not started.read_text():
            time.sleep(0.01)
        cancel.request()

    threading.Thread(target=ask, daemon=True).start()
    with promptly(), pytest.raises(SnapshotCanceled):
        take(
            discover(work.root, environ=work.environ, filters=lambda _: True, lends=lambda _: True),
            workspace,
            cancel=cancel,
        )
    assert list(workspace.iterdir()) == []
    filters_process = Path("/proc", started.read_text().strip())
    until(lambda: not filters_process.exists())
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(started.read_text()), signal.SIGKILL)


@pytest.mark.slow
def test_a_git_command_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "PATIENCE_S", 0.2)
    hanging = git.Running(
        ("-c", "alias.hang=!exec sleep 600", "hang"), git.without_repository(os.environ), cwd=tmp_path
    )
    with pytest.raises(SnapshotError, match="has not ended within"):
        hanging.result()


def test_an_interrupt_while_a_git_command_starts_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its filter may have begun before loom has noted the command."""
    start, begun, cancel = git.started, list[subprocess.Popen[bytes]](), Cancel()

    def started(*arguments: Any, **more: Any) -> subprocess.Popen[bytes]:
        begun.append(start(*arguments, **more))
        cancel.request()
        return begun[0]

    monkeypatch.setattr(git, "started", started)
    with git.ended_by(cancel), pytest.raises(SnapshotCanceled):
        git.Running(("-c", "alias.hang=!exec sleep 600", "hang"), git.without_repository(os.environ), cwd=tmp_path)
    assert begun[0].returncode is not None


@pytest.mark.slow
def test_interrupted_by_the_terminal(work: Repo, tmp_path: Path) -> None:
    """Ctrl-C reaches loom and what it started: one line, no traceback of a helper's, and nothing is left."""
    for number in range(6000):
        work.write(f"many/{number % 60}/{number}")
    (tmp_path / "tmp").mkdir()
    environ = work.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "tmp"), "HOME": str(tmp_path)}
    loom = subprocess.Popen(
        [sys.executable, "-m", "loom", "snapshot"],
        cwd=work.root,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    while loom.poll() is None and not list((tmp_path / "tmp").glob("*/loom-run-local-*/many")):
        time.sleep(0.001)
    os.killpg(loom.pid, signal.SIGINT)
    _, said = loom.communicate()
    assert (loom.returncode, said) == (130, "interrupted: no workspace was left behind\n")
    assert list((tmp_path / "tmp").glob("*/*")) == []


def test_killed_in_the_middle(work: Repo, tmp_path: Path) -> None:
    """What is left is loom's to remove, and nobody's while it is being filled."""
    workspace = tmp_path / "loom-run-local-1700000000000000000-1234"
    workspace.mkdir()
    program = f"""
import os, signal
from pathlib import Path
from typing import Any
from loom.cancel import Cancel
from loom.snapshot import discover, is_workspace, take
workspace = Path({str(workspace)!r})
def killed(done, total):
    print(is_workspace(workspace), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
take(discover(Path.cwd(), environ=os.environ), workspace, cancel=Cancel(), on_progress=killed)
"""
    environ = work.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=work.root, env=environ, capture_output=True, check=False, text=True
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "False\n"), done.stderr
    assert is_workspace(workspace)
    assert remove(workspace).complete
    assert not workspace.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount")
def test_a_full_disk(work: Repo, tmp_path: Path) -> None:
    workspace = tmp_path / "small"
    workspace.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(workspace)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("may not mount")
    try:
        work.write("big", b"x" * 1_000_000)
        with pytest.raises(SnapshotError, match="No space left") as caught:
            take(
                discover(work.root, environ=work.environ, filters=lambda _: True, lends=lambda _: True),
                workspace,
                cancel=Cancel(),
            )
        assert caught.value.exit_code == 3
        assert "LOOM_TMP_DIR" in (caught.value.hint or "")
        assert list(workspace.iterdir()) == []
        (work.root / "big").unlink()
        # From one file system to another: copy_file_range can't, sendfile can.
        check(
            work,
            take(
                discover(work.root, environ=work.environ, filters=lambda _: True, lends=lambda _: True),
                workspace,
                cancel=Cancel(),
            ),
        )
    finally:
        subprocess.run(["umount", str(workspace)], check=True)


def test_a_workspace_that_is_not_empty_is_refused(work: Repo, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("mine")
    with pytest.raises(SnapshotError, match="not empty"):
        take(discover(work.root, environ=work.environ), tmp_path / "mine", cancel=Cancel())
    assert (tmp_path / "mine/file").read_text() == "mine"


AS_NOBODY = """
import os, sys
from pathlib import Path
from typing import Any
sys.path.insert(0, {root!r})
from loom.cancel import Cancel
from loom.snapshot import discover, take, verify
os.setgid(65534); os.setuid(65534)
try:
    taken = take(discover(Path({source!r}), environ=dict(os.environ)), Path({workspace!r}), cancel=Cancel())
    print("ok", [(left.path, left.reason) for left in taken.left_out])
    for name in ("d0", "closed"):
        directory = taken.path / name
        directory.mkdir(exist_ok=True)
        (directory / "f").touch()
        directory.chmod(0)
    verified = verify(taken.path, environ=dict(os.environ), tree_sha=taken.tree_sha)
    print("verified", verified.same, sorted(verified.unreadable))
except Exception as error:
    print(type(error).__name__, getattr(error, "exit_code", ""), error)
print(os.listdir({workspace!r}))
"""


def as_nobody(repo: Repo, tmp_path: Path) -> str:
    workspace = tmp_path / "nobodys"
    workspace.mkdir(exist_ok=True)
    os.chown(workspace, 65534, 65534)
    config = tmp_path / "config"
    config.write_text("[safe]\n\tdirectory = *\n")
    program = AS_NOBODY.format(root=str(ROOT), source=str(repo.root), workspace=str(workspace))
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=repo.environ | {"GIT_CONFIG_GLOBAL": str(config), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.open_tmp_path
@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_unreadable_files_are_named(work: Repo, tmp_path: Path) -> None:
    work.write("d2/f2", "secret\n", 0o600)
    work.write("locked/x", "x\n")
    (work.root / "locked").chmod(0o700)
    said = as_nobody(work, tmp_path)
    assert "SnapshotError 3" in said, said
    assert "d2/f2: Permission denied" in said
    assert said.rstrip().endswith("[]")
    (work.root / "d2/f2").chmod(0o644)
    said = as_nobody(work, tmp_path)
    assert "ok [('locked/', \"a directory that git can't read: Permission denied\")]" in said, said
    assert "verified False [('closed/', 'Permission denied'), ('d0/', 'Permission denied')]" in said, said
    objects = work.root / ".git/objects" / work.git("rev-parse", "HEAD:run.sh")[:2]
    objects.chmod(0o700)
    said = as_nobody(work, tmp_path)
    assert f"SnapshotError 3 {objects}: Permission denied" in said, said
    path = work.root / ".git/refs/heads/main"
    path.chmod(0o700)
    said = as_nobody(work, tmp_path)
    assert f"RequestError 2 {work.root}: the repository has no commit yet, or none that you may read" in said, said


# Removal


def make_workspace(repo: Repo, parent: Path, name: str = "loom-run-local-1700000000000000000-1234") -> Path:
    workspace = parent / name
    workspace.mkdir()
    take(discover(repo.root, environ=repo.environ), workspace, cancel=Cancel())
    return workspace


DELETE_AS_OTHER = """import os, sys
from pathlib import Path
from loom.snapshot.removal import delete
os.setgid(65534); os.setuid(65534)
print(delete(Path(sys.argv[1])))
"""


@pytest.mark.open_tmp_path
@pytest.mark.skipif(os.geteuid() != 0, reason="root may enter and change every directory")
def test_directories_that_their_owner_closed_are_deleted_all_the_same(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("unwritable", "unreadable", "not to be entered"):
        (tree / name / "inner").mkdir(parents=True)
        (tree / name / "inner/file").write_text("x")
        (tree / name / "file").write_text("x")
    for path in (tmp_path, tree, *tree.rglob("*")):
        os.chown(path, 65534, 65534)
    for name, mode in (("unwritable", 0o500), ("unreadable", 0o300), ("not to be entered", 0o600)):
        (tree / name).chmod(mode)
    others = tmp_path / "tree/of another"
    (others / "kept").mkdir(parents=True)
    command = [sys.executable, "-c", DELETE_AS_OTHER, str(tree)]
    done = subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True)
    assert [str(path.relative_to(tree)) for path in sorted(tree.rglob("*"))] == ["of another", "of another/kept"]
    assert "of another" in done.stdout


def test_removal(work: Repo, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    workspace = make_workspace(work, tmp_path)
    (workspace / "link").symlink_to(outside)
    (workspace / "d2").chmod(0)
    (workspace / "d3").chmod(0o500)
    assert remove(workspace).complete
    assert not workspace.exists()
    assert (outside / "kept").read_text() == "kept"
    assert remove(workspace).complete


def test_only_looms_own_directories_are_removed(work: Repo, tmp_path: Path) -> None:
    other = make_workspace(work, tmp_path, "my-project")
    lookalike = tmp_path / "loom-run-local-1-1"
    lookalike.mkdir()
    (lookalike / "mine").write_text("x")
    real = make_workspace(work, tmp_path)
    link = tmp_path / "loom-run-local-2-2"
    link.symlink_to(real)
    for path in (other, lookalike, link, work.root):
        assert not is_workspace(path)
        with pytest.raises(SnapshotError, match="not one of loom's"):
            remove(path)
        assert path.exists()
    subprocess.run(["rm", "-rf", str(real / ".git")], check=True)
    with pytest.raises(SnapshotError):
        remove(real)
    assert remove(real, recorded=True).complete


# Explanations


# The commands


def loom(repo: Repo, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return run_loom(arguments, cwd=repo.root, environ=repo.environ | {"PYTHONPATH": str(ROOT)} | environ)


def test_commands(work: Repo, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    there = {"TMPDIR": str(tmp_path / "tmp"), "HOME": str(tmp_path)}
    done = loom(work, "snapshot", "--json", **there)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["tree_sha"] == work.would_commit()
    workspace = Path(document["path"])
    assert is_workspace(workspace)
    done = loom(work, "verify", str(workspace), **there)
    assert done.returncode == 0, done.stderr
    (workspace / "d2/f2").write_text("changed\n")
    done = loom(work, "verify", "--json", str(workspace), **there)
    assert done.returncode == 1, done.stderr
    assert [change["path"] for change in json.loads(done.stdout)["changes"]] == ["d2/f2"]
    done = loom(work, "snapshot", **there)
    assert done.stdout.startswith("isolated workspace: ")
    done = loom(work, "snapshot", "--explain", "d0/f0", "x.log", **there)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("yes  d0/f0: tracked")
    assert loom(work, "snapshot", "--explain", **there).returncode == 2
    for path in ("x" * 300, "/".join(["d" * 100] * 60)):
        done = loom(work, "snapshot", "--explain", path, **there)
        assert done.returncode == 0, done.stderr
        done = loom(work, "verify", path, **there)
        assert done.returncode == 2, done.stderr
    (tmp_path / "file").touch()
    done = loom(work, "snapshot", **there | {"TMPDIR": str(tmp_path / "file")})
    assert done.returncode == 2, done.stderr
    assert str(tmp_path / "file") in done.stderr
    done = loom(work, "snapshot", TMPDIR="/proc", HOME=str(tmp_path), LOOM_TMP_DIR="/proc/nowhere")
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr


def test_verify_is_told_the_workspace_in_any_way(work: Repo, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    there = {"TMPDIR": str(tmp_path / "tmp"), "HOME": str(tmp_path)}
    workspace = Path(json.loads(loom(work, "snapshot", "--json", **there).stdout)["path"])
    (tmp_path / "link").symlink_to(workspace)
    inside = Repo(workspace, work.environ)
    below = Repo(workspace / "d0", work.environ)
    for place, said in ((inside, "."), (below, ".."), (work, str(tmp_path / "link")), (below, "last")):
        done = loom(place, "verify", "--json", said, **there)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["believed"]
    # A job that makes up a manifest is not believed, and one whose copy is gone is held to its own word.
    manifest = workspace / ".git/loom-snapshot.json"
    document = json.loads(manifest.read_bytes())
    (workspace / "d0/f0").write_text("forged\n")
    document["changed"] = [change for change in document["changed"] if change["kind"] != "added"]
    manifest.write_text(json.dumps(document))
    done = loom(work, "verify", str(workspace), **there)
    assert (done.returncode, "modified     d0/f0" in done.stdout) == (1, True), done.stdout + done.stderr
    done = loom(work, "clean", "--all", "--keep-last", "0", **there)
    assert done.returncode == 0, done.stderr
    assert not workspace.exists()
    assert list((tmp_path / ".local/state/loom/snapshots").iterdir()) == []


AS_OTHER = """
import contextlib, io, os, sys
from loom.cli.boundary import run_app
import tests.support.warm  # the other user may have no right to read modules
with contextlib.redirect_stdout(io.StringIO()):
    run_app({warm})
os.setgid(65534); os.setuid(65534)
print([run_app(words) for words in {commands}])
"""


@pytest.mark.slow
@pytest.mark.open_tmp_path
@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_workspaces_that_may_not_be_entered(work: Repo, tmp_path: Path) -> None:
    tmp = tmp_path / "tmp"
    tmp.mkdir()
    tmp.chmod(0o777)
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    theirs = make_workspace(work, tmp, "loom-run-local-1700000000000000000-1111")
    theirs.chmod(0o700)
    closed = make_workspace(work, tmp, "loom-run-local-1700000000000000000-2222")
    for path in (closed, *closed.rglob("*")):
        os.chown(path, 65534, 65534, follow_symlinks=False)
    closed.chmod(0)
    # As a job's `chown -R` leaves root's own.
    given_away = make_workspace(work, tmp, "loom-run-local-1700000000000000000-3333")
    for path in (given_away, *given_away.rglob("*")):
        os.chown(path, 65534, 65534, follow_symlinks=False)
    environ = work.environ | {
        "TMPDIR": str(tmp),
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }

    commands = [["verify", str(theirs)], ["verify", str(closed)], ["clean", "--all", "--keep-last", "0"]]
    program = AS_OTHER.format(warm=["clean", "--all", "--dry-run"], commands=commands)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd="/", env=environ, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1:] == ["[2, 2, 0]"], done.stdout + done.stderr
    assert "internal error" not in done.stderr
    assert str(theirs) not in done.stdout
    assert (given_away / ".git").exists()
    assert closed.exists()
