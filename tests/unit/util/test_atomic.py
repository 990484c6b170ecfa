import os
from pathlib import Path

import pytest

from loom.util import atomic


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "there.json"
    atomic.write(path, b"old")
    atomic.write(path, b"new", mode=0o600)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["there.json"]


def test_what_fails_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "there.json"
    atomic.write(path, b"old")
    with pytest.raises(KeyboardInterrupt), atomic.replacing(path) as draft:
        _interrupted(draft)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["there.json"]


def test_a_draft_may_be_elsewhere(tmp_path: Path) -> None:
    drafts = tmp_path / "drafts"
    drafts.mkdir()
    with atomic.replacing(tmp_path / "there.json", drafts=drafts) as draft:
        assert draft.parent == drafts
        assert draft.read_bytes() == b""
    assert os.listdir(drafts) == []
    assert (tmp_path / "there.json").is_file()


def _interrupted(draft: Path) -> None:
    draft.write_bytes(b"half")
    raise KeyboardInterrupt
