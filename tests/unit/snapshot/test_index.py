"""Which indexes can be copied as they are."""

from pathlib import Path

import pytest

from loom.snapshot import git_dir
from loom.snapshot.index import _ENTRY, _mode_in_conflict
from tests.unit.snapshot.conftest import Repo


def index_of(repository: Path, *commands: tuple[str, ...], object_format: str = "sha1") -> bytes:
    for command in (("init", "-q", f"--object-format={object_format}"), ("add", "-A"), *commands):
        Repo(repository).git(*command)
    return (repository / ".git" / "index").read_bytes()


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_a_file_s_name_is_no_extension(tmp_path: Path, object_format: str) -> None:
    # The last name is followed by the checksum, any bytes, which may look like an extension's size.
    for name in ("link", "a-link", "link-a.js", "FSMN", "UNTR", "x/sdir/link", "unlinked", "z"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    index = index_of(tmp_path, object_format=object_format)
    assert git_dir.is_plain(index)
    changed = index[12:16]  # the first entry's time, in seconds
    assert git_dir.is_plain(index.replace(changed, b"kAAV")), "a time of letters, as an extension's name"


@pytest.mark.parametrize(
    "commands",
    [
        (("update-index", "--split-index"),),
        (("update-index", "--force-untracked-cache"), ("status",)),
        (("config", "core.fsmonitor", "/bin/false"), ("update-index", "--fsmonitor")),
    ],
    ids=["split", "untracked cache", "fsmonitor"],
)
def test_what_is_true_of_one_place_only_is_seen(tmp_path: Path, commands: tuple[tuple[str, ...], ...]) -> None:
    (tmp_path / "a").write_text("a")
    assert not git_dir.is_plain(index_of(tmp_path, *commands))


def test_a_sparse_index_is_seen(tmp_path: Path) -> None:
    for name in ("a/b", "c/d"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    assert not git_dir.is_plain(
        index_of(tmp_path, ("commit", "-qm", "x"), ("sparse-checkout", "set", "--cone", "--sparse-index", "a"))
    )


def test_the_tree_that_git_noted_in_an_index(tmp_path: Path) -> None:
    repository = Repo(tmp_path)
    for name in ("TREE", "a/TREE", "a/b/c", "TREE-TREE"):
        repository.write(name)
    assert git_dir.tree_of_index(index_of(tmp_path), 20) is None, "nothing was committed yet"
    repository.git("commit", "-qm", "x")
    index = tmp_path / ".git" / "index"
    assert git_dir.tree_of_index(index.read_bytes(), 20) == repository.git("rev-parse", "HEAD^{tree}").strip()
    repository.write("a/new")
    repository.git("add", "-N", "a/new")
    assert git_dir.tree_of_index(index.read_bytes(), 20) is None, "an entry is there that is in no tree"
    repository.git("add", "a/new")
    assert git_dir.tree_of_index(index.read_bytes(), 20) is None
    tree = repository.git("write-tree").strip()
    assert git_dir.tree_of_index(index.read_bytes(), 20) in (None, tree)


@pytest.mark.parametrize(
    ("stages", "mode"),
    [
        ("1:100644:a 2:100755:a 3:100644:a", "100755"),
        ("1:100644:a 3:100755:a", "100644"),
        ("2:100755:a 3:100644:a", "100755"),
        ("3:100755:a", "100755"),
        ("1:100644:a 2:100755:b", "100644"),
        ("1:100644:a", "100644"),
    ],
)
def test_the_mode_of_a_conflict_is_ours_else_that_of_the_base_else_theirs(stages: str, mode: str) -> None:
    entries = [one.split(":") for one in stages.split()]
    listing = "".join(f"M {each} {'0' * 40} {stage}\t{path}\0" for stage, each, path in entries).encode()
    first = _ENTRY.match(listing)
    assert first is not None
    assert _mode_in_conflict(first) == mode.encode()


@pytest.mark.parametrize("version", ["2", "3", "4"])
@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_facts_of_every_entry(tmp_path: Path, version: str, object_format: str) -> None:
    repository = Repo(tmp_path)
    for number, name in enumerate(
        ["a", "a-é", "b" * 200, *(f"deep/{'d' * 250}/{'e' * length}" for length in range(1, 9))]
    ):
        repository.write(name, "x" * number)
    more = (
        [("update-index", f"--index-version={version}")]
        if version != "3"
        else [("update-index", "--skip-worktree", "a")]
    )
    index = index_of(tmp_path, *more, object_format=object_format)
    assert index[7] == int(version)
    listed = repository.git("ls-files", "-z").split("\0")[:-1]
    for path, facts in zip(listed, git_dir.facts_in_index(index, 20 if object_format == "sha1" else 32), strict=True):
        status = (tmp_path / path).lstat()
        assert facts[0] * 10**9 + facts[1] == status.st_ctime_ns
        assert (facts[5], facts[9]) == (status.st_ino & 0xFFFFFFFF, status.st_size)
