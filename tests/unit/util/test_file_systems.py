"""What files take on the disk."""

from pathlib import Path

from loom.util.file_systems import allocated


def test_a_file_with_many_names_is_counted_once(tmp_path: Path) -> None:
    """A build of git makes 140 names of one program: workspaces were taken for twice as large as they are, and went early."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    (first / "git").write_bytes(b"x" * 1_000_000)
    alone = allocated(first)
    for number in range(20):
        (first / f"git-{number}").hardlink_to(first / "git")
    (second / "git").hardlink_to(first / "git")
    assert alone >= 1_000_000
    assert allocated(first) == alone
    assert allocated(first, second) == alone
    (second / "other").write_bytes(b"x" * 1_000_000)
    assert allocated(first, second) >= alone + 1_000_000
