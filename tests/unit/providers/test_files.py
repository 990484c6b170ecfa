"""Tar streams to and from directories: what they hold, and that no file is ever held as a whole."""

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from loom.providers.files import members_in, members_of, unpack
from loom.storage.tar import packed

LARGE = 20_000_000


def filled(root: Path) -> Path:
    (root / "dir" / "empty").mkdir(parents=True)
    (root / "dir" / "large").write_bytes(os.urandom(LARGE))
    (root / "dir" / "none").touch()
    (root / "dir" / ("long" * 50)).write_text("a long name")
    (root / "dir" / os.fsdecode(b"not-utf8-\xff")).write_text("odd")
    (root / "dir" / "tool").write_text("#!/bin/sh")
    (root / "dir" / "tool").chmod(0o755)
    (root / "dir" / "same").hardlink_to(root / "dir" / "tool")
    (root / "dir" / "link").symlink_to("../somewhere/else")
    os.mkfifo(root / "dir" / "fifo")
    return root


def state(root: Path) -> dict[str, tuple[int, object]]:
    return {
        os.fsencode(path.relative_to(root)).decode("latin-1"): (
            path.lstat().st_mode,
            path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None,
        )
        for path in sorted(root.rglob("*"))
        if not path.is_fifo()
    }


def in_small_pieces(archive: Iterable[bytes]) -> list[bytes]:
    pieces = list(archive)
    assert max(map(len, pieces)) < 1_000_000
    return pieces


@pytest.mark.slow
def test_any_tar_unpacks_it_to_the_same_files(tmp_path: Path) -> None:
    source, target = filled(tmp_path / "source"), tmp_path / "target"
    target.mkdir()
    pieces = in_small_pieces(packed(members_of(source, ["dir", "not there"])))
    subprocess.run(["tar", "-xf", "-"], cwd=target, input=b"".join(pieces), check=True)
    assert state(target) == state(source)
    assert (target / "dir/same").stat().st_ino == (target / "dir/tool").stat().st_ino


def test_a_renamed_stream_is_the_same_files_elsewhere(tmp_path: Path) -> None:
    source, target = filled(tmp_path / "source"), tmp_path / "target"
    target.mkdir()
    unpack(members_in([("moved/to", packed(members_of(source, ["dir"])))], print), target)
    assert state(target / "moved" / "to") == state(source / "dir")


@pytest.mark.slow
def test_one_large_piece_is_read_in_no_time(tmp_path: Path) -> None:
    """It took minutes: what was left of the piece was copied at each read."""
    (tmp_path / "large").write_bytes(bytes(5 * LARGE))
    whole = b"".join(packed(members_of(tmp_path, ["large"])))
    assert sum(map(len, in_small_pieces(packed(members_in([("large", [whole])], print))))) == len(whole)
