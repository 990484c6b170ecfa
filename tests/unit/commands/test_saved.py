"""What is saved of a kept job's files comes back as it was, whatever bytes its paths and contents have."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import zstandard

from loom.commands.inside import saved
from loom.errors import RecordError
from loom.snapshot import Change, Verification

SHA = "1" * 40
ODD = os.fsdecode(b"odd-\xff\n.bin")


def changed(path: str, kind: str = "added", mode: str = "100644") -> Change:
    return Change(path=path, kind=kind, old_mode="000000", mode=mode, old_sha="0" * 40, sha=SHA)


@pytest.fixture
def job(tmp_path: Path) -> Any:
    paths = SimpleNamespace(saved=lambda job_id: tmp_path / "record" / f"{job_id}.zst")
    run = SimpleNamespace(paths=paths)
    return SimpleNamespace(id="unit", run=run, manifest=tmp_path / "none")


def save(job: Any, root: Path, *changes: Change) -> Path:
    found = Verification(
        workspace=root,
        head_sha=SHA,
        snapshot_tree_sha=SHA,
        tree_sha=SHA,
        changes=changes,
        unreadable=((ODD, "no permission"),),
        believed=True,
    )
    saved._write(job, found, {})
    file: Path = job.run.paths.saved("unit")
    return file


def test_it_comes_back_as_it_was(job: Any, tmp_path: Path) -> None:
    assert saved.read(job) is None
    (tmp_path / ODD[:-1]).write_bytes(b"\0\xff")
    (tmp_path / "link").symlink_to(ODD)
    changes = changed(ODD[:-1]), changed("link", mode="120000"), changed("gone", "deleted", "000000")
    save(job, tmp_path, *changes, changed("inner", mode="160000"), changed(ODD))
    found = saved.read(job)
    assert found is not None
    contents = (0o100644, b"\0\xff"), (0o120000, os.fsencode(ODD)), None
    assert found.files == tuple(zip(changes, contents, strict=True))
    assert dict(found.left_out) == {ODD: "no permission", "inner": "a repository of its own"}


@pytest.mark.parametrize("path", ["../out", "/abs", "a/../b", "", ".git/hooks/pre-commit", "a/.git", 7])
def test_a_path_that_leads_out_is_refused(job: Any, tmp_path: Path, path: object) -> None:
    (tmp_path / "file").touch()
    file = save(job, tmp_path, changed("file"))
    document = msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(file.read_bytes()))
    document["files"][0][0]["path"] = path
    file.write_bytes(zstandard.ZstdCompressor().compress(msgspec.msgpack.encode(document)))
    with pytest.raises(RecordError, match=r"can't be read"):
        saved.read(job)


def test_damage_is_refused(job: Any, tmp_path: Path) -> None:
    file = save(job, tmp_path)
    for damaged in (b"", b"x", file.read_bytes()[:-3], zstandard.ZstdCompressor().compress(b"\xc1")):
        file.write_bytes(damaged)
        with pytest.raises(RecordError, match=r"can't be read"):
            saved.read(job)
