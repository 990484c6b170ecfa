"""`loom watch` on a real terminal, with real git; its jobs run on this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

import pytest

from loom import snapshot
from loom.commands.run.changes import CheckoutWatch
from loom.snapshot.observed import CheckoutChange
from tests.support.waiting import until
from tests.support.watching import WAITING, Watched, gone, left

pytestmark = pytest.mark.slow

ONE = """
version: v1
stages: [test]
one:
  stage: test
  script: ["cat a.txt; test ! -e wait || { echo begun >$SIGNAL; while test ! -e $GO; do sleep 0.05; done; }"]
"""
ORDER = """
version: v1
stages: [check, test, deploy]
lint: {stage: check, script: [test -e lint-ok]}
style: {stage: check, script: ["true"]}
unit: {stage: test, needs: [lint], script: ["true"]}
docs: {stage: test, needs: [], rules: [{changes: ["docs/**"]}], script: ["true"]}
"""


def test_each_change_of_what_a_snapshot_holds_is_one_run(tmp_path: Path) -> None:
    repo = Watched(tmp_path, ONE)
    with repo.watch() as terminal:
        repo.write("build/out.o", "ignored")
        shown = repo.changed(terminal, "a.txt", "2\n")
        assert "build" not in shown
        with repo.unseen(terminal):
            (repo.root / "a.tmp").write_text("3\n")  # as editors save
            (repo.root / "a.tmp").rename(repo.root / "a.txt")
        assert "a.txt" in repo.next_run(terminal)
        assert len(repo.receipts()) == 3
        repo.git("switch", "-qc", "other")
        for number in range(300):
            repo.write(f"build/many/{number}", "x")
        (repo.root / "build/many").rename(repo.root / "many")
        repo.next_run(terminal)
        repo.git("add", "-A")
        repo.git("commit", "-qm", "many")
        repo.git("switch", "-q", "main")  # 300 files go
        repo.next_run(terminal)
        terminal.send("q")
        assert left(terminal) == 0
    # A busy machine may take longer for 300 files than the pause after which a burst is over.
    statuses = [receipt["status"] for receipt in repo.receipts()]
    assert set(statuses) == {"success"}
    assert 5 <= len(statuses) <= 7


def test_edits_during_a_run_count_for_the_next(tmp_path: Path) -> None:
    repo = Watched(tmp_path, ONE)
    begun, go = tmp_path / "begun", tmp_path / "go"
    repo.environ |= {"SIGNAL": str(begun), "GO": str(go)}
    workflow = (repo.root / ".loom/workflow.yml").read_text()
    repo.write(".loom/workflow.yml", workflow.replace("$SIGNAL", str(begun)).replace("$GO", str(go)))
    with repo.watch() as terminal:
        repo.write("wait", "")
        until(begun.exists)
        repo.write("a.txt", "2\n")
        (repo.root / "wait").unlink()
        go.touch()
        terminal.expect(WAITING)
        until(lambda: len(repo.receipts()) == 3)
        terminal.send("q")
        assert left(terminal) == 0


def test_an_invalid_workflow_is_reported_and_the_next_change_runs(tmp_path: Path) -> None:
    repo = Watched(tmp_path, ONE)
    with repo.watch() as terminal:
        assert "workflow.yml:3" in repo.changed(
            terminal, ".loom/workflow.yml", "version: v1\nstages: [test]\none: {stag: x}\n"
        )
        assert "passed" in repo.changed(terminal, ".loom/workflow.yml", ONE)
        terminal.sendintr()
        assert left(terminal) == 130
    assert len(repo.receipts()) == 2


def test_a_rebase_that_stops_at_a_conflict_is_repaired_while_watching(tmp_path: Path) -> None:
    repo = Watched(tmp_path, ONE)
    repo.git("switch", "-qc", "topic")
    repo.write(".loom/workflow.yml", ONE.replace("cat a.txt;", "cat a.txt; echo topic;"))
    repo.git("commit", "-qam", "topic")
    repo.git("switch", "-q", "main")
    repo.write(".loom/workflow.yml", ONE.replace("cat a.txt;", "cat a.txt; echo main;"))
    repo.git("commit", "-qam", "main")
    with repo.watch() as terminal:
        repo.git("switch", "-q", "topic")
        assert "passed" in repo.next_run(terminal)
        with pytest.raises(subprocess.CalledProcessError):
            repo.git("rebase", "-q", "main")
        # The marks of the conflict. A watcher that is quick runs main's commit first, before git writes them.
        # One in the midst of it shows them again, when git has moved HEAD.
        terminal.expect("workflow.yml:6")
        terminal.expect(WAITING)
        repo.write(".loom/workflow.yml", ONE)  # git knows of the conflict still
        terminal.expect("in conflict, which git would not commit: .loom/workflow.yml")
        terminal.expect(WAITING)
        repo.git("add", "-A")
        repo.git("-c", "core.editor=true", "rebase", "--continue")
        assert "passed" in repo.changed(terminal, "a.txt", "2\n")
        terminal.send("q")
        assert left(terminal) == 0
    assert repo.receipts()[-1]["snapshot_head_sha"] == repo.git("rev-parse", "HEAD").strip()


def test_two_watchers_of_one_checkout_run_beside_each_other(tmp_path: Path) -> None:
    repo = Watched(tmp_path, ONE)
    with repo.watch() as terminal, repo.watch() as other:
        for text in ("2\n", "3\n"):
            repo.write("a.txt", text)
            for each in (terminal, other):
                assert "passed" in repo.next_run(each)
        os.kill(other.pid, signal.SIGKILL)
        assert "passed" in repo.changed(terminal, "a.txt", "4\n")
        terminal.send("q")
        assert left(terminal) == 0
    assert [receipt["status"] for receipt in repo.receipts()] == ["success"] * 7


def test_what_changed_while_the_watcher_was_stopped_is_one_run(tmp_path: Path) -> None:
    repo = Watched(tmp_path, ONE)
    with repo.watch() as terminal:
        with repo.unseen(terminal):
            for number in range(500):
                repo.write(f"new/{number}", "x")
            repo.write("a.txt", "2\n")
        assert "passed" in repo.next_run(terminal)
        terminal.send("q")
        assert left(terminal) == 0
    assert len(repo.receipts()) == 2


@pytest.mark.parametrize("full", ["state", "tmp"])
def test_a_full_disk_is_reported_and_the_next_change_runs(
    tmp_path: Path, make_file_system: Callable[..., Path], fill: Callable[..., Path], full: str
) -> None:
    repo = Watched(tmp_path, ONE)
    disk = make_file_system("tmpfs", 8)
    repo.environ[f"LOOM_{full.upper()}_DIR"] = str(disk)
    with repo.watch() as terminal:
        filler = fill(disk)
        shown = repo.changed(terminal, "a.txt", "2\n")
        assert "free some space" in " ".join(shown.split()), shown
        filler.unlink()
        assert "passed" in repo.changed(terminal, "a.txt", "3\n")
        terminal.send("q")
        assert left(terminal) == 0
    state = disk if full == "state" else repo.state
    receipts = [json.loads(path.read_text()) for path in state.glob("runs/*/receipts/*.json")]
    assert len(receipts) == (2 if full == "state" else 3)  # one run for each change
    prepared_or_used = {path.stem.split("-")[3] for path in state.glob("workspaces/*.json")}
    assert prepared_or_used == {receipt["run_id"] for receipt in receipts}, "what was only prepared is gone"


def test_what_failed_runs_first_then_what_waits_for_it_then_the_rest(tmp_path: Path) -> None:
    repo = Watched(tmp_path, ORDER)
    with repo.watch() as terminal:  # the first change that concerns `docs` is one of docs
        repo.changed(terminal, "a.txt", "2\n")
        repo.changed(terminal, "lint-ok", "")
        repo.write("docs/page", "1")
        repo.next_run(terminal, "changed: docs")
        repo.changed(terminal, "a.txt", "3\n")
        terminal.send("r")
        repo.next_run(terminal, "run")
        terminal.send("q")
        assert left(terminal) == 0
    assert repo.jobs() == [
        ["lint", "style", "unit"],
        ["lint", "unit"],  # lint fails again
        ["lint", "unit"],  # it passes
        ["style"],
        ["docs", "lint", "style", "unit"],
        ["lint", "style", "unit"],  # docs differ from HEAD, but this change touches no docs
        ["docs", "lint", "style", "unit"],
    ]


def test_all_runs_everything_from_the_start(tmp_path: Path) -> None:
    repo = Watched(tmp_path, ORDER)
    with repo.watch("--all") as terminal:
        repo.changed(terminal, "a.txt", "2\n")
        terminal.send("f")  # only on request
        repo.next_run(terminal, "run")
    assert repo.jobs() == [["lint", "style", "unit"], ["lint", "style", "unit"], ["lint"]]


def test_a_closed_terminal_ends_it(tmp_path: Path) -> None:
    repo = Watched(tmp_path, ONE)
    with repo.watch() as terminal:
        pid = terminal.pid
    gone(pid)
    with repo.watch() as terminal:
        os.kill(terminal.pid, signal.SIGHUP)
        assert left(terminal) == 129


def test_where_the_kernel_takes_no_more_watches_loom_says_so_and_looks_itself(tmp_path: Path) -> None:
    repo = Watched(tmp_path, ONE)
    for number in range(40):
        repo.write(f"many/{number}/file", "x")
    limited = ["unshare", "--user", "--map-root-user"]
    if not shutil.which("unshare") or subprocess.run([*limited, "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs a user namespace for a limit of its own")
    program = f"""
import sys, threading
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from loom import snapshot
from loom.commands.run.changes import CheckoutWatch
import os
heard = threading.Event()
source = snapshot.discover(Path.cwd(), environ=os.environ)
def on_change(found):
    print("changed", *found.paths, flush=True)
    heard.set()
with CheckoutWatch(source, os.environ, on_change, poll=False, say=lambda text: print(text, flush=True)):
    while not heard.wait(0.3):
        Path("many/7/file").write_text(str(os.urandom(4)))
"""
    command = f'echo 20 >/proc/sys/user/max_inotify_watches && exec "{sys.executable}" -c "$PROGRAM"'
    ran = subprocess.run(
        [*limited, "sh", "-c", command],
        cwd=repo.root,
        env={**repo.environ, "PROGRAM": program},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "sysctl fs.inotify.max_user_watches" in ran.stdout
    assert "changed many/7/file" in ran.stdout


class Heard:
    """What is told of a watched repository."""

    def __init__(self, repo: Watched, *, also: Sequence[Path] = ()) -> None:
        self._repo = repo
        self._told: SimpleQueue[CheckoutChange] = SimpleQueue()
        self._also = also

    @contextmanager
    def watching(self) -> Iterator[Heard]:
        source = snapshot.discover(self._repo.root, environ=self._repo.environ)
        with CheckoutWatch(source, self._repo.environ, self._told.put, poll=False, say=pytest.fail, also=self._also):
            yield self

    def next(self) -> CheckoutChange:
        return self._told.get(timeout=60)

    def nothing_but(self, path: str) -> None:
        """All that went before told nothing: an edit of this file is told next."""
        self._repo.write(path, "another")
        assert self.next() == CheckoutChange(paths=frozenset({path}))


def test_tracked_files_count_though_a_rule_ignores_them(tmp_path: Path) -> None:
    repo = Watched(tmp_path, ONE)
    repo.write("build/kept", "1")
    repo.git("add", "-f", "build/kept")
    with Heard(repo).watching() as heard:
        repo.write("build/other", "1")
        heard.nothing_but("build/kept")


def test_what_decides_a_snapshot_besides_its_files_counts(tmp_path: Path) -> None:
    repo = Watched(tmp_path, ONE, ignore="build/\nown/.gitignore\n*.secret\n")
    repo.write("build/made", "1")
    repo.write("token.secret", "1")
    own, token = repo.base / "home/.config/git", repo.root / "token.secret"
    own.mkdir(parents=True)
    repo.environ |= {"XDG_CONFIG_HOME": str(own.parent)}

    with Heard(repo, also=[token]).watching() as heard:

        def told(*paths: str, settings: Sequence[str | Path] = ()) -> None:
            found = heard.next()
            while not (found.paths or found.settings):  # the new branch may be there before HEAD names it
                found |= heard.next()
            assert (found.paths, found.settings) == (frozenset(paths), frozenset(map(str, settings)))

        repo.git("add", "-f", "build/made")
        told("build/made")
        repo.git("rm", "-q", "--cached", "build/made")
        told("build/made")
        repo.git("update-index", "--skip-worktree", "a.txt")
        told("a.txt")
        repo.git("update-index", "--no-skip-worktree", "a.txt")
        told("a.txt")
        repo.write("left", "1")
        told("left")
        repo.write(".git/info/exclude", "left\n")
        told("left", settings=[repo.root / ".git/info/exclude"])
        repo.write(str(own / "ignore"), "more\n")
        told(settings=[own / "ignore"])
        repo.write("own/x", "1")
        told("own", "own/x")
        repo.write("own/.gitignore", "x\n")
        told("own/x", "own/.gitignore")
        repo.git("config", "core.autocrlf", "input")
        told(settings=["git's configuration"])
        repo.write("token.secret", "2")
        told(settings=[token])
        repo.git("switch", "-qc", "other")
        told(settings=["the branch"])
        repo.git("commit", "-q", "--allow-empty", "-m", "second")
        assert heard.next() == CheckoutChange(head=True)


def test_what_does_not_decide_a_snapshot_does_not_count(tmp_path: Path) -> None:
    repo = Watched(tmp_path, ONE)
    with Heard(repo).watching() as heard:
        heard.nothing_but("a.txt")
        repo.git("status")
        repo.git("add", "a.txt")
        repo.git("config", "alias.st", "status")
        repo.git("rm", "-q", "--cached", "a.txt")  # it is as new as it was tracked
        heard.nothing_but("b.txt")
        repo.git("add", "b.txt")
        heard.nothing_but("b.txt")
        (repo.root / "b.txt").unlink()
        assert heard.next().paths == {"b.txt"}
        repo.git("add", "-A")
        heard.nothing_but("a.txt")


def test_a_linked_checkout_and_a_submodule_are_watched_too(tmp_path: Path) -> None:
    repo = Watched(tmp_path, ONE)
    repo.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(repo.root), "sub")
    repo.git("commit", "-qm", "with a submodule")
    with Heard(repo).watching() as heard:
        repo.git("-C", "sub", "commit", "-q", "--allow-empty", "-m", "inside")
        assert heard.next().paths == {"sub"}
    repo.git("worktree", "add", "-q", str(repo.base / "linked"))
    repo.root = repo.base / "linked"
    repo.write("build/made", "1")
    with Heard(repo).watching() as heard:
        repo.git("add", "-f", "build/made")
        assert heard.next().paths == {"build/made"}
