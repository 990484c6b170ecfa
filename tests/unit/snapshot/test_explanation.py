"""Would CI see this file?"""

import os
import shutil
from pathlib import Path

import pytest

from loom.errors import RequestError
from loom.snapshot import Explanation, Snapshot, discover, explain

from .conftest import Repo, Snap, check, contents


def answers_of(repo: Repo, *paths: str) -> list[Explanation]:
    return list(explain(discover(repo.root, environ=repo.environ), paths, start=repo.root))


def agrees(repo: Repo, snapshot: Snapshot, *paths: str) -> list[str]:
    """The reasons for these paths, after each answer was held to what the workspace has: a file, or one somewhere below."""
    there = contents(snapshot.path)
    reasons = []
    for answer in answers_of(repo, *paths):
        below = f"{answer.path}/" if answer.path else ""
        assert answer.included == any(path == answer.path or path.startswith(below) for path in there), answer
        reasons.append(answer.reason)
    return reasons


def test_explain(work: Repo, snap: Snap, tmp_path: Path) -> None:
    work.write("d0/f0")
    work.write("d1/f1")
    work.write(".gitignore", "*.log\n")
    work.commit()
    (work.root / "d1/f1").unlink()
    work.write("new/file", "untracked\n")
    work.write("build/.gitignore", "*\n!keep\n")
    work.write("build/keep")
    work.write("build/gone")
    work.write("x.log")
    work.write("tracked.log")
    work.git("add", "-f", "tracked.log")
    work.write(":(top)odd.log")
    os.mkfifo(work.root / "pipe")
    (work.root / "nothing").mkdir()
    work.link("link", "d0")
    inner = Repo(work.root / "inner")
    inner.root.mkdir()
    inner.git("init", "-q")
    inner.write("a")
    inner.commit()
    paths = [
        "d0/f0", "d1/f1", "new/file", "x.log", "tracked.log", "build/keep", "build/gone", "pipe", "nothing", "link",
        "link/f0", "inner/a", ".git/config", ".loom/.runtime/x", "missing", ":(top)odd.log", "d0", ".",
    ]  # fmt: skip
    source = discover(work.root, environ=work.environ)
    answers = {answer.path: answer for answer in explain(source, paths, start=work.root)}
    snapshot = snap(work)
    there = set(contents(snapshot.path))
    for path, answer in answers.items():
        if path not in ("d0", ""):
            assert answer.included == (path in there), answer
    assert str(answers["x.log"].rule) == ".gitignore:1: *.log"
    assert str(answers["tracked.log"].rule) == ".gitignore:1: *.log"
    assert str(answers["build/keep"].rule) == "build/.gitignore:2: !keep"
    assert answers[":(top)odd.log"].rule is not None
    assert explain(source, ["f0"], start=work.root / "d0")[0].path == "d0/f0"
    with pytest.raises(RequestError, match="outside"):
        explain(source, [str(tmp_path)], start=work.root)


def test_directories(work: Repo, snap: Snap) -> None:
    work.write("kept/.gitignore", "*\n!.gitignore\n")
    work.write("ignored/.gitignore", "*\n")
    work.write("out/tracked")
    work.write("gone/x")
    work.commit()
    work.write(".gitignore", "/out/\n")
    work.write("kept/result")
    work.write("out/result")
    (work.root / "gone/x").unlink()
    os.mkfifo(work.root / "gone/pipe")
    asked = ["kept", "kept/result", "ignored", "out", "out/tracked", "out/result", "gone", "src", "."]
    reasons = agrees(work, snap(work), *asked)
    assert reasons[0] == "a directory: the snapshot has 1 path of it"
    assert reasons[3] == "ignored, but the snapshot has 1 tracked path of it"
    assert reasons[6] == "a directory without a file that counts: git keeps no empty directories"


def test_what_takes_the_place_of_what(work: Repo, snap: Snap) -> None:
    work.write("a", "a\n")
    work.write("d/f")
    work.write("e/f")
    work.write(".gitignore", "/e\n")
    work.git("add", "-f", "e/f")
    work.commit()
    (work.root / "a").unlink()
    work.write("a/inside")
    for directory in ("d", "e"):
        shutil.rmtree(work.root / directory)
        work.link(directory, "src")
    reasons = agrees(work, snap(work), "a", "a/inside", "d", "d/f", "d/main.py", "e", "e/f", "e/main.py")
    assert reasons[3] == "behind the symbolic link d, which is itself part of the snapshot as a link"
    assert reasons[6].startswith("behind the symbolic link e, which is not part of the snapshot: ignored")


def test_names_that_no_file_can_have(work: Repo) -> None:
    work.link("loop", "loop2")
    work.link("loop2", "loop")
    for path in ("loop/x", "x" * 300, "/".join(["d" * 100] * 60), "README/x"):
        (answer,) = answers_of(work, path)
        assert not answer.included


def test_repositories_that_are_none(work: Repo, snap: Snap) -> None:
    work.write("bad/.git", "gitdir: /nowhere\n")
    work.write("bad/file")
    (work.root / "empty/.git").mkdir(parents=True)
    work.write("empty/file")
    work.write("docs/.git", "no repository\n")
    snapshot = snap(work)
    check(work, snapshot)
    assert snapshot.left_out == ()
    agrees(work, snapshot, "bad/file", "empty/file", "docs/page.md", "bad", "empty")


def test_directories_that_only_the_index_has(work: Repo, snap: Snap) -> None:
    work.git("sparse-checkout", "set", "--cone", "src")
    assert agrees(work, snap(work), "docs", "docs/page.md", "src", "nowhere") == [
        "a directory: the snapshot has 1 path of it",
        "tracked and marked skip-worktree: its staged content is laid out",
        "a directory: the snapshot has 1 path of it",
        "does not exist, and git does not track it",
    ]


def test_what_is_called_git(work: Repo, snap: Snap) -> None:
    (work.root / "d/.git").mkdir(parents=True)
    work.write("d/.git/x")
    work.write("d/q")
    work.write("n/.git")
    work.write("n/q")
    agrees(work, snap(work), "d/.git/x", "d/.git", "n/.git", "d/q", "n/q", "d", "n")
