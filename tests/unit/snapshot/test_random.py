"""Random repositories with random uncommitted work, judged by git, byte for byte."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given, reject
from hypothesis import strategies as st

from loom.cancel import Cancel
from loom.snapshot import discover, explain, take
from tests.support.effort import fuzzed

from .conftest import Repo, check, clone, contents, proved

pytestmark = pytest.mark.slow

# Few names, so that things collide: a file where another example step makes a directory, a link where a file was.
NAMES = [
    "a",
    "b",
    "A",
    "dir",
    "x.log",
    "keep.log",
    ".hidden",
    "-d",
    "with space",
    "n\nl",
    os.fsdecode(b"\xff\xe9"),
    'q"uo',
    "build",
]
paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
contents_ = st.sampled_from([b"", b"x", b"y", b"one\r\ntwo\r\n", b"one\ntwo\n", b"\x00\xff" * 40, b"z" * 70_000])
rules = st.sampled_from(["*.log", "!keep.log", "/build", "build/", "dir/*", "!dir/a", "a", "**/b", "# c", "", "-d"])

SETTINGS = [
    ("core.ignorecase", "true"),
    ("core.untrackedCache", "true"),
    ("core.checkStat", "minimal"),
    ("core.eol", "crlf"),
    ("core.excludesFile", "a"),
    ("core.attributesFile", "a"),
    ("status.showUntrackedFiles", "no"),
    ("core.fileMode", "false"),
    ("core.symlinks", "false"),
    ("filter.up.clean", "tr a-z A-Z"),
]

FILTERED = ("attributes", "* filter=up\n")

steps = st.one_of(
    st.tuples(st.just("write"), paths, contents_, st.booleans()),
    st.tuples(st.just("write"), paths, contents_, st.booleans()),
    st.tuples(st.just("link"), paths, st.sampled_from(["a", "dir", "nowhere", "/nowhere/at all", "../.."])),
    st.tuples(st.just("remove"), paths),
    st.tuples(st.just("replace"), paths, st.sampled_from(["file", "link", "directory"])),
    st.tuples(st.just("mkdir"), paths),
    st.tuples(st.just("move"), paths, paths),
    st.tuples(st.just("chmod"), paths, st.booleans()),
    st.tuples(st.just("ignore"), st.sampled_from(["", "dir", "build"]), st.lists(rules, max_size=3)),
    st.tuples(st.just("exclude"), st.lists(rules, max_size=2)),
    st.tuples(
        st.just("attributes"),
        st.sampled_from(["* text=auto\n", "*.log text eol=crlf\n", "a -text\n", "* filter=up\n", ""]),
    ),
    st.tuples(st.just("add"), paths),
    st.tuples(st.just("add_forced"), paths),
    st.tuples(st.just("add_all")),
    st.tuples(st.just("intent"), paths),
    st.tuples(st.just("rm_cached"), paths),
    st.tuples(st.just("mv"), paths, paths),
    st.tuples(st.just("skip"), paths),
    st.tuples(st.just("assume"), paths),
    st.tuples(st.just("show"), paths),
    st.tuples(st.just("reset"), paths),
    st.tuples(st.just("config"), st.sampled_from(SETTINGS)),
    st.tuples(st.just("nested"), paths),
    st.tuples(st.just("conflict"), paths, contents_, contents_),
    st.tuples(
        st.just("sparse"), st.lists(st.sampled_from(["/a", "/*", "!/dir/", "/dir/", "!/b", "build"]), min_size=1)
    ),
    st.tuples(st.just("index"), st.sampled_from(["--index-version=2", "--index-version=4", "--split-index"])),
    st.tuples(st.just("autocrlf"), st.sampled_from(["true", "false", "input"])),
    st.tuples(st.just("commit")),
    st.tuples(st.just("stash")),
    st.tuples(st.just("touch"), paths),
)


def inside(repo: Repo, step: tuple[Any, ...]) -> bool:
    """Whether a step touches the repository alone: links lead out of it, and root may write whatever they name."""
    match step:
        case ("write", path, *_):
            touched = repo.root / path
        case ("ignore", directory, _):
            touched = repo.root / directory / ".gitignore"
        case ("link" | "remove" | "replace" | "mkdir" | "chmod" | "touch", path, *_):
            touched = (repo.root / path).parent
        case ("move", path, other):
            return all(within(repo, (repo.root / name).parent) for name in (path, other))
        case _:
            return True
    return within(repo, touched)


def within(repo: Repo, path: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(repo.root))


def do(repo: Repo, step: tuple[Any, ...]) -> None:
    """One thing a person may do; what the file system or git refuses is simply not done."""
    try:
        if not inside(repo, step):
            return
        match step:
            case ("write", path, data, executable):
                repo.write(path, data, 0o755 if executable else 0o644)
            case ("link", path, target):
                repo.link(path, target)
            case ("remove", path):
                file = repo.root / path
                shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink()
            case ("replace", path, kind):
                do(repo, ("remove", path))
                if kind == "directory":
                    repo.write(f"{path}/inside")
                else:
                    repo.write(path) if kind == "file" else repo.link(path, "a")
            case ("move", path, target):
                (repo.root / path).rename(repo.root / target)
            case ("mkdir", path):
                (repo.root / path).mkdir(parents=True)
            case ("chmod", path, executable):
                if not (repo.root / path).is_symlink() and (repo.root / path).is_file():
                    (repo.root / path).chmod(0o755 if executable else 0o644)
            case ("ignore", directory, lines):
                repo.write(f"{directory}/.gitignore" if directory else ".gitignore", "\n".join(lines) + "\n")
            case ("exclude", lines):
                (repo.root / ".git/info/exclude").write_text("\n".join(lines) + "\n")
            case ("attributes", text):
                repo.write(".gitattributes", text)
            case ("touch", path):
                os.utime(repo.root / path, (1_600_000_000, 1_600_000_000), follow_symlinks=False)
            case ("add", path):
                repo.git("add", "--", path)
            case ("add_forced", path):
                repo.git("add", "-f", "--", path)
            case ("add_all",):
                repo.git("add", "-A", "--sparse")
            case ("intent", path):
                repo.git("add", "--intent-to-add", "--", path)
            case ("rm_cached", path):
                repo.git("rm", "-r", "-q", "--cached", "--", path)
            case ("mv", path, target):
                repo.git("mv", "--", path, target)
            case ("skip", path):
                repo.git("update-index", "--skip-worktree", "--", path)
            case ("assume", path):
                repo.git("update-index", "--assume-unchanged", "--", path)
            case ("show", path):
                repo.git("update-index", "--no-skip-worktree", "--no-assume-unchanged", "--", path)
            case ("reset", path):
                repo.git("reset", "-q", "--", path)
            case ("autocrlf", value):
                repo.git("config", "core.autocrlf", value)
            case ("commit",):
                repo.git("commit", "-q", "--allow-empty", "-m", "c")
            case ("config", (key, value)):
                repo.git("config", key, value)
            case ("nested", path):
                (repo.root / path).mkdir(parents=True, exist_ok=True)
                inner = Repo(repo.root / path)
                inner.git("init", "-q")
                inner.git("commit", "-q", "--allow-empty", "-m", "i")
            case ("conflict", path, one, other):
                repo.git("reset", "-q", "--merge", with_file(repo, path, one))
                repo.git("merge", "-q", with_file(repo, path, other))
            case ("sparse", patterns):
                repo.git("sparse-checkout", "set", "--no-cone", *patterns)
            case ("index", switch):
                repo.git("update-index", *switch.split("="))
            case ("stash",):
                repo.git("stash", "-q")
            case _:
                raise AssertionError(step)
    except (OSError, AssertionError):
        pass


def with_file(repo: Repo, path: str, data: bytes) -> str:
    """A commit on HEAD with these bytes at `path`; neither files nor index are touched."""
    index = {"GIT_INDEX_FILE": str(repo.root / ".git/other-index")}
    blob = repo.git("hash-object", "-w", "--stdin", given=data).strip()
    repo.git("read-tree", "HEAD", **index)
    repo.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", **index)
    tree = repo.git("write-tree", **index).strip()
    return repo.git("commit-tree", "-p", "HEAD", "-m", "other", tree).strip()


def modes(repo: Repo) -> dict[str, str]:
    """Of the files and links that git would commit, as `would_commit` left them."""
    listed = (item.partition("\t") for item in repo.listing.split("\0")[:-1])
    return {path: about[:6] for about, _, path in listed if not about.startswith("160000")}


@contextmanager
def place() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="loom-test-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def committed_and_cloned(repo: Repo, top: Path) -> Path:
    """A runner's checkout of what git would commit: the settings of this repository do not count there."""
    copy = Repo(shutil.copytree(repo.root, top / "copy", symlinks=True), repo.environ)
    copy.git("add", "-A", "--sparse")
    copy.git("commit", "-q", "--allow-empty", "-m", "c")
    return clone(copy, top / "cloned", str(copy.root)).root


@fuzzed(12, 60)
@example(before=[], after=[("attributes", "* text=auto\n"), ("write", "a", b"one\r\ntwo\r\n", False)], borrow=False)
@example(before=[], after=[("ignore", "build", []), ("exclude", ["/build"])], borrow=False)
@example(before=[], after=[("config", SETTINGS[-1]), FILTERED, ("write", "a", b"x", False)], borrow=True)
@given(before=st.lists(steps, max_size=8), after=st.lists(steps, max_size=10), borrow=st.booleans())
def test_random_work(before: list[tuple[Any, ...]], after: list[tuple[Any, ...]], borrow: bool) -> None:
    with place() as top:
        (top / "source").mkdir()
        repo = Repo(top / "source")
        repo.git("init", "-q")
        for step in before:
            do(repo, step)
        do(repo, ("add_all",))
        do(repo, ("commit",))
        for step in after:
            do(repo, step)
        try:
            repo.git("rev-parse", "HEAD")
            repo.would_commit()
        except AssertionError:
            reject()  # nothing that git could say of it
        # The disk then is not what git goes by.
        untrue = {repo.git("config", "--default", "true", key).strip() for key in ("core.fileMode", "core.symlinks")}
        hidden = "false" in untrue or any(
            line.startswith(("S", "s", "h")) for line in repo.git("ls-files", "-v", "-z").split("\0")
        )
        state = repo.state()
        with mock.patch("loom.snapshot.source.COPY_UP_TO_BYTES", -1 if borrow else 50_000_000):
            source = discover(repo.root, environ=repo.environ, filters=lambda _: True)
            assert bool(source.read_only_mounts) == borrow
        workspace = top / "workspace"
        workspace.mkdir()
        with mock.patch("loom.snapshot.source.COPY_UP_TO_BYTES", -1 if borrow else 50_000_000):
            snapshot = take(source, workspace, cancel=Cancel())
        assert repo.state() == state
        verified = proved(snapshot)
        there = contents(workspace)
        assert verified.same, verified.changes
        if hidden:
            assert snapshot.tree_sha == repo.would_commit()
        else:
            # Another repository's directory is empty in the workspace, where git has nothing to say of it, and knows no filters.
            differs = any(step[0] == "nested" or step == FILTERED for step in (*before, *after))
            check(repo, snapshot, status=not differs, cloned=committed_and_cloned(repo, top))
        assert {path: mode for path, (mode, _) in there.items()} == modes(repo)
        here = sorted(set(contents(repo.root)) - {""})
        directories = {str(parent) for path in here for parent in Path(path).parents}
        gitlinks = {item.partition("\t")[2] for item in repo.listing.split("\0") if item.startswith("160000")}
        for answer in explain(source, [*here, *(directories - gitlinks)], start=repo.root):
            below = f"{answer.path}/" if answer.path else ""
            # The directory itself is there, also without a file.
            found = not below or any(path == answer.path or path.startswith(below) for path in there.keys() | gitlinks)
            assert answer.included == found, answer
