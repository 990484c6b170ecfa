"""What a folder of a snapshot is called: as often as nothing in it has changed, and never when something has."""

from collections.abc import Callable
from pathlib import Path

import pytest

from loom.cancel import Cancel
from loom.snapshot import discover, identity_of, take
from loom.snapshot.inputs import input_tree

from .conftest import ENVIRONMENT, NewRepo, Repo


@pytest.fixture
def named(tmp_path: Path, new_repo: NewRepo) -> tuple[Repo, Callable[[str], str | None]]:
    repo = new_repo("repo")
    for path in ("app/Dockerfile", "app/src/main", "other/file", "top"):
        repo.write(path)
    repo.git("add", "-A")
    repo.git("commit", "-qm", "one")
    taken: list[Path] = []

    def name_of(folder: str) -> str | None:
        """Of a new snapshot each time."""
        workspace = tmp_path / f"workspace-{len(taken)}"
        workspace.mkdir()
        taken.append(workspace)
        source = discover(repo.root, environ=ENVIRONMENT)
        take(source, workspace, cancel=Cancel())
        return identity_of(source, workspace, folder)

    return repo, name_of


def test_a_folder_keeps_its_name_while_nothing_in_it_changes(named: tuple[Repo, Callable[[str], str | None]]) -> None:
    repo, name_of = named
    app, whole = name_of("app"), name_of(".")
    assert app is not None
    assert app == name_of("app")
    assert whole == name_of(".") != app
    repo.write("other/file", "changed")
    assert name_of("app") == app
    assert name_of(".") != whole
    repo.git("commit", "-qam", "two")
    assert name_of("app") == app


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        lambda repo: repo.write("app/src/main", "changed"),
        lambda repo: repo.write("app/src/main", mode=0o755),
        lambda repo: repo.write("app/new"),
        lambda repo: (repo.root / "app/src/main").unlink(),
        lambda repo: (repo.root / "app/link").symlink_to("src"),
        lambda repo: (repo.write("app/src/main", "changed"), repo.git("commit", "-qam", "two")),
    ],
)
def test_a_change_in_a_folder_gives_it_another_name(
    named: tuple[Repo, Callable[[str], str | None]], change: Callable[[Repo], object]
) -> None:
    repo, name_of = named
    before = name_of("app"), name_of("app/src"), name_of(".")
    change(repo)
    after = name_of("app"), name_of("app/src"), name_of(".")
    assert after[0] != before[0]
    assert after[2] != before[2]


def test_the_whole_counts_commit_branch_and_tags(named: tuple[Repo, Callable[[str], str | None]]) -> None:
    repo, name_of = named
    seen = {name_of(".")}
    for command in (["commit", "-q", "--allow-empty", "-m", "x"], ["tag", "v1"], ["checkout", "-qb", "work"]):
        repo.git(*command)
        name = name_of(".")
        assert name not in seen, command
        seen.add(name)


def test_a_folder_that_is_not_committed_yet(named: tuple[Repo, Callable[[str], str | None]]) -> None:
    repo, name_of = named
    repo.write("new/Dockerfile")
    before = name_of("new")
    repo.write("new/Dockerfile", "changed")
    assert before is not None
    assert name_of("new") not in (before, None)


@pytest.mark.slow
def test_a_folder_of_a_submodule_changes_with_it(
    tmp_path: Path, new_repo: NewRepo, named: tuple[Repo, Callable[[str], str | None]]
) -> None:
    repo, name_of = named
    inner = new_repo("inner")
    inner.write("docker/Dockerfile")
    inner.git("add", "-A")
    inner.git("commit", "-qm", "one")
    repo.git("submodule", "add", "-q", str(inner.root), "app/sub")
    repo.git("commit", "-qm", "with a submodule")
    before = name_of("app/sub/docker"), name_of("app"), name_of(".")
    repo.write("app/sub/docker/Dockerfile", "changed")
    after = name_of("app/sub/docker"), name_of("app"), name_of(".")
    assert all(one != other for one, other in zip(before, after, strict=True))


ENTRIES = {
    ".gitattributes": ("100644", "1" * 40),
    "app/.gitattributes": ("100644", "2" * 40),
    "app/main": ("100644", "3" * 40),
    "other": ("100644", "4" * 40),
}


@pytest.mark.parametrize(
    ("change", "inputs", "is_other"),
    [
        ({"app/main": ("100755", "3" * 40)}, ["app/*"], True),
        ({"app/main": ("100644", "5" * 40)}, ["app"], True),
        ({"app/more": ("100644", "5" * 40)}, ["app"], True),
        ({"other": ("100644", "5" * 40)}, ["app"], False),
        ({".gitattributes": ("100644", "5" * 40)}, ["other"], True),  # it decides on the bytes of a checkout
        ({"app/.gitattributes": ("100644", "5" * 40)}, ["other"], True),
    ],
)
def test_what_decides_on_the_inputs_of_a_job(
    change: dict[str, tuple[str, str]], inputs: list[str], is_other: bool
) -> None:
    before, after = (input_tree(entries, "9" * 40, inputs) for entries in (ENTRIES, ENTRIES | change))
    assert (before != after) is is_other
    assert input_tree(ENTRIES, "9" * 40, [*inputs, ".git"]) == "9" * 40
