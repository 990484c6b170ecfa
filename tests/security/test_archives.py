"""Archives from an attacker: a planted cache with a checksum that fits, a forged artifact, the files of a kept container.

Each one is unpacked by every way that an archive can take into a directory; nothing may appear outside of that directory, and
nothing that a user would run with more rights than their own.
"""

import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from loom.errors import LoomError
from loom.plan.model import Artifacts
from loom.plan.model import Cache as Spec
from loom.providers.files import members_in, unpack
from loom.storage import artifacts, unpacking
from loom.storage.cache import Cache
from loom.storage.selection import PathSelection
from loom.storage.tar import TarEntry
from loom.storage.workspace import DirectoryView, TarView
from loom.util.masking import Masker

from ..unit.views import TarSession

SPEC = Spec(paths=("deps/",), key="k")
Unpack = Callable[[bytes, Path], str]
"""Unpacks into a directory; what was said when it was refused, "" when it was not."""


def by_artifact(archive: bytes, directory: Path) -> str:
    packed = directory.parent / "artifacts.tar.gz"
    packed.write_bytes(gzip.compress(archive))
    try:
        artifacts.restore({packed: hashlib.sha256(packed.read_bytes()).hexdigest()}, DirectoryView(directory))
    except LoomError as error:
        return error.message
    return ""


def by_artifact_stream(archive: bytes, directory: Path) -> str:
    packed = directory.parent / "artifacts.tar.gz"
    packed.write_bytes(gzip.compress(archive))
    try:
        artifacts.restore({packed: None}, TarView(TarSession(directory)))
    except LoomError as error:
        return error.message
    return ""


def by_planted_cache(archive: bytes, directory: Path) -> str:
    store = planted(directory.parent / "cache", archive)
    return store.restore(SPEC, "k", DirectoryView(directory), lambda stream, data: None).warning or ""


def planted(folder: Path, archive: bytes) -> Cache:
    """A cache whose entry and blob somebody else wrote, with the checksum that belongs to it."""
    (folder.parent / "seed" / "deps").mkdir(parents=True)
    (folder.parent / "seed/deps/file").write_text("x")
    store = Cache(folder, max_size=1 << 30, project="p", clock=time.time)
    assert store.save(SPEC, "k", DirectoryView(folder.parent / "seed"), lambda stream, data: None).saved
    blob = zstandard.ZstdCompressor().compress(archive)
    name = hashlib.sha256(blob).hexdigest()
    path = folder / "blobs" / name[:2] / f"{name}.tar.zst"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(blob)
    (entry,) = (folder / "entries").glob("*/*.json")
    entry.write_text(json.dumps({**json.loads(entry.read_text()), "blob": name}))
    return store


def by_kept_container(archive: bytes, directory: Path) -> str:
    try:
        unpack(members_in([("", [archive])], lambda _: None), directory)
    except LoomError as error:
        return error.message
    return ""


WAYS: dict[str, Unpack] = {
    "artifact": by_artifact,
    "artifact as a stream": by_artifact_stream,
    "cache": by_planted_cache,
    "kept container": by_kept_container,
}


def packed(*members: tarfile.TarInfo, form: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    form = tarfile.PAX_FORMAT if any(member.pax_headers for member in members) else form
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"#!/bin/sh\n".ljust(member.size, b"x")))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 10) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, 0o7777
    info.size = size if kind == tarfile.REGTYPE else 0
    return info


def with_name_by_pax(name: str) -> tarfile.TarInfo:
    info = member("harmless")
    info.pax_headers = {"path": name}
    return info


REFUSED: dict[str, list[tarfile.TarInfo]] = {
    "climbing": [member("../../evil")],
    "climbing out of the middle": [member("deps/../../evil")],
    "climbing at the end": [member("deps/..", tarfile.DIRTYPE)],
    "absolute": [member("/tmp/loom-test-evil")],
    "climbing, far along a long name": [member("deps/" + "a/" * 90 + "../" * 95 + "evil")],
    "climbing by an extended header": [with_name_by_pax("../evil")],
    "absolute by an extended header": [with_name_by_pax("/tmp/loom-test-evil")],
    "NUL in a name": [with_name_by_pax("deps/a\0/../../evil")],
    "a link, then through it": [member("deps", tarfile.SYMTYPE, ".."), member("deps/evil")],
    "a link of a link, then through it": [
        member("deps/one", tarfile.SYMTYPE, ".."),
        member("deps/two", tarfile.SYMTYPE, "one"),
        member("deps/two/evil"),
    ],
    "an absolute link, then a directory through it": [
        member("deps", tarfile.SYMTYPE, "/tmp"),
        member("deps/loom-test-evil", tarfile.DIRTYPE),
    ],
    "a link, then a hard link through it": [
        member("deps", tarfile.SYMTYPE, "/etc"),
        member("same", tarfile.LNKTYPE, "deps/passwd"),
    ],
    "a hard link out": [member("deps/same", tarfile.LNKTYPE, "../../secret")],
    "an absolute hard link": [member("deps/same", tarfile.LNKTYPE, "/etc/passwd")],
    "a hard link to what was there": [member("deps/same", tarfile.LNKTYPE, "theirs")],
    "a link without a target": [member("deps/link", tarfile.SYMTYPE, "")],
    "too deep": [member("d/" * 300 + "file")],
    "too long": [with_name_by_pax("n" * 5000)],
}
SPECIAL = {
    "character device": [member("deps/null", tarfile.CHRTYPE)],
    "block device": [member("deps/disk", tarfile.BLKTYPE)],
    "fifo": [member("deps/pipe", tarfile.FIFOTYPE)],
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "in" / "directory").mkdir(parents=True)
    (tmp_path / "secret").write_text("theirs")
    (tmp_path / "in" / "directory" / "theirs").write_text("theirs")
    return tmp_path / "in" / "directory"


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_written_outside(directory: Path, way: str, case: str, form: int) -> None:
    said = WAYS[way](packed(*REFUSED[case], form=form), directory)
    assert said, "it was unpacked"
    assert not list(directory.parent.parent.rglob("evil"))
    assert not Path("/tmp/loom-test-evil").exists()
    assert (directory.parent.parent / "secret").stat().st_nlink == 1


@pytest.mark.parametrize("case", SPECIAL)
@pytest.mark.parametrize("way", WAYS)
def test_no_device_or_fifo_is_made(directory: Path, way: str, case: str) -> None:
    said = WAYS[way](packed(*SPECIAL[case], member("deps/file")), directory)
    assert bool(said) == (way != "kept container"), "what a job left in its workspace is laid out without them"
    made = [path for path in directory.rglob("*") if not (path.is_file() or path.is_dir())]
    assert made == []


@pytest.mark.parametrize("way", WAYS)
def test_no_set_uid_set_gid_or_sticky_bit_arrives(directory: Path, way: str) -> None:
    assert not WAYS[way](packed(member("deps", tarfile.DIRTYPE), member("deps/tool")), directory)
    for name in ("deps", "deps/tool"):
        mode = (directory / name).stat().st_mode
        assert not mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX), oct(mode)
        assert mode & 0o700 == 0o700
    if os.geteuid() == 0:
        assert (directory / "deps/tool").stat().st_uid == 0


@pytest.mark.parametrize("way", WAYS)
def test_a_link_may_point_anywhere_and_is_followed_by_nobody(directory: Path, way: str) -> None:
    """As the `python` of a virtual environment does."""
    assert not WAYS[way](packed(member("deps/python", tarfile.SYMTYPE, "/usr/bin/python3")), directory)
    assert os.readlink(directory / "deps/python") == "/usr/bin/python3"
    found = list(DirectoryView(directory).read(selected("deps"), lambda skipped: None))
    assert [(entry.kind, content) for entry, content in found if entry.path == "deps/python"] == [("link", None)]


def selected(*paths: str) -> PathSelection:
    return PathSelection(paths)


@pytest.mark.parametrize("way", ["artifact", "cache"])
def test_nothing_is_written_through_a_link_that_a_job_left(directory: Path, way: str) -> None:
    (directory / "deps").symlink_to(directory.parent.parent)
    assert "nothing is written through it" in WAYS[way](packed(member("deps/evil")), directory)
    assert not (directory.parent.parent / "evil").exists()


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_bomb_is_refused(directory: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few kilobytes that unpack to more than a machine holds: refused by count or size, and what was written is gone."""
    monkeypatch.setattr(unpacking, "MOST_BYTES", 10_000_000)
    assert "more than" in WAYS[way](packed(*(member(f"deps/{n}", size=1_000_000) for n in range(20))), directory)
    assert not [path for path in directory.rglob("*") if path.is_file() and path.name != "theirs"]


def test_a_bomb_of_names_is_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "MOST_ENTRIES", 100)
    assert "more than 100 files" in by_artifact(packed(*(member(f"deps/{n}", size=0) for n in range(101))), directory)


@pytest.mark.parametrize("field", ["size", "mtime", "linkpath", "path"])
@pytest.mark.parametrize("value", ["", "-1", "9" * 5000, "nan", "1e999", "0x10"])
def test_headers_that_make_no_sense(directory: Path, field: str, value: str) -> None:
    """Each one is refused or harmless; none is an error of loom's own."""
    info = member("deps/file", size=0)
    info.pax_headers = {field: value}
    said = by_artifact(packed(info, form=tarfile.PAX_FORMAT), directory)
    assert said or all(path.is_relative_to(directory) for path in directory.rglob("*"))


def test_damaged_bytes(tmp_path: Path) -> None:
    """One byte changed anywhere in the headers: unpacked, refused or said to be damaged, and nothing outside."""
    members = (member("deps", tarfile.DIRTYPE), member("deps/" + "n" * 150), with_name_by_pax("deps/pax"))
    for seed in range(200):
        archive = bytearray(packed(*members, form=tarfile.PAX_FORMAT))
        archive[seed * 17 % len(archive)] ^= 1 << seed % 8
        directory = tmp_path / str(seed) / "directory"
        directory.mkdir(parents=True)
        by_artifact(bytes(archive), directory)
        assert {path.name for path in directory.parent.iterdir()} <= {"directory", "artifacts.tar.gz"}, seed
    assert {path.name for path in tmp_path.iterdir()} == set(map(str, range(200)))


# Secrets in names


MASKER = Masker({"TOKEN": "hunter2-secret"})


def leaky(root: Path) -> Path:
    (root / "deps/dir-hunter2-secret").mkdir(parents=True)
    (root / "deps/dir-hunter2-secret/below").write_text("harmless")
    (root / "deps/file-hunter2-secret.txt").write_text("harmless")
    (root / "deps/aHVudGVyMi1zZWNyZXQ=").write_text("harmless")
    (root / "deps/link").symlink_to("https://user:hunter2-secret@example.org")
    (root / "deps/kept").write_text("harmless")
    return root


def test_no_name_or_link_target_takes_a_secret_into_an_artifact(tmp_path: Path) -> None:
    said: list[bytes] = []
    kept = artifacts.collect(
        Artifacts(paths=("deps",)),
        DirectoryView(leaky(tmp_path / "workspace")),
        archive=tmp_path / "artifacts.tar.gz",
        on_output=lambda stream, data: said.append(data),
        masker=MASKER,
    )
    whole = gzip.decompress((tmp_path / "artifacts.tar.gz").read_bytes())
    assert b"hunter2" not in whole
    assert b"aHVudGVyMi" not in whole
    assert [file.path for file in artifacts.index_of(tmp_path / "artifacts.tar.gz")] == ["deps/kept"]
    assert "hunter2" not in repr(kept.skipped) + repr(said)
    assert [(item.path, item.reason) for item in kept.skipped] == [
        ("deps/[REDACTED:SECRET_TOKEN]", "a secret is in its name"),
        ("deps/dir-[REDACTED:SECRET_TOKEN]", "a secret is in its name"),
        ("deps/file-[REDACTED:SECRET_TOKEN].txt", "a secret is in its name"),
        ("deps/link", "a secret is in the target of its link"),
    ]


def test_no_name_or_link_target_takes_a_secret_into_a_cache(tmp_path: Path) -> None:
    store = Cache(tmp_path / "cache", max_size=1 << 30, project="p", clock=time.time)
    said: list[bytes] = []
    saved = store.save(
        SPEC, "k", DirectoryView(leaky(tmp_path / "workspace")), lambda s, data: said.append(data), masker=MASKER
    )
    assert saved.saved
    assert len(saved.skipped) == 4
    assert b"hunter2" not in b"".join(said)
    (blob,) = (tmp_path / "cache/blobs").glob("*/*")
    whole = zstandard.ZstdDecompressor().stream_reader(blob.read_bytes()).read()
    assert b"deps/kept" in whole
    assert b"hunter2" not in whole


def test_the_writer_itself_makes_no_special_file(tmp_path: Path) -> None:
    pipe = TarEntry(path="pipe", kind="special", mode=0o644, mtime_ns=0, target="FIFO")
    with pytest.raises(unpacking.UnsafeArchive, match="'pipe' is a device or FIFO"):
        unpacking.unpack_items([(pipe, None)], tmp_path)
    assert list(tmp_path.iterdir()) == []
