"""What counts as a change of a checkout, beside the content of its files."""

from loom.snapshot.observed import Observed

from .conftest import Repo


def test_paths_that_the_index_decides_count_and_those_that_only_went_do_not(work: Repo) -> None:
    observed = Observed(root=work.root, environ=work.environ)
    assert not observed.news()

    def told() -> frozenset[str]:
        return observed.news().paths

    for kind in ("--skip-worktree", "--no-skip-worktree"):
        work.git("update-index", kind, "README")
        assert told() == {"README"}
    for sha in ("a" * 40, "b" * 40):
        work.git("update-index", "--add", "--cacheinfo", f"160000,{sha},module")
        assert told() == {"module"}
    work.write("new")
    assert told() == {"new"}
    work.git("add", "new")
    work.git("rm", "-q", "--cached", "README")
    assert told() == set(), "tracked or not"
    for path in ("new", "README"):
        (work.root / path).unlink()
    work.git("rm", "-q", "--cached", "new")
    assert told() == set(), "whoever watches the files knows that they went"
    assert not observed.news()
    work.git("tag", "v1")
    assert observed.news().head, "it may be the tag of the run"
    work.git("commit", "-q", "--allow-empty", "-m", "more")
    assert observed.news().head
    assert not observed.news()
