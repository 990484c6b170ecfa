import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from loom.storage import tar as archives
from loom.storage.tar import DamagedArchive, TarEntry, read

ENTRIES = [
    TarEntry("dir", "directory", 0o755, 1_700_000_000 * 10**9),
    TarEntry("dir/empty", "file", 0o644, 0),
    TarEntry("dir/block", "file", 0o600, 1, 512),
    TarEntry("dir/large", "file", 0o755, 1_700_000_001 * 10**9 + 999, 3_000_001),
    TarEntry("dir/" + "n" * 99, "file", 0o644, -(10**9), 5),
    TarEntry("dir/" + "long/" * 60 + "name", "file", 0o444, 2 * 10**9, 7),
    TarEntry("dir/" + "d" * 150, "directory", 0o700, 0),
    TarEntry("dir/link", "link", 0o777, 3 * 10**9, 0, "../" * 50 + "x"),
    TarEntry("dir/same", "hardlink", 0o644, 0, 0, "dir/large"),
    TarEntry("dir/" + "h" * 120, "hardlink", 0o644, 0, 0, "dir/" + "n" * 99),
    TarEntry("späce and\nline", "file", 0o644, 0, 1),
    TarEntry(os.fsdecode(b"dir/\xff\xfe"), "link", 0o777, 0, 0, os.fsdecode(b"\xfd")),
    TarEntry("after 2242", "file", 0o644, 9_000_000_000 * 10**9, 0),
]


def content(entry: TarEntry) -> bytes:
    return (entry.path.encode("utf-8", "surrogateescape") * (entry.size + 1))[: entry.size]


def packed(entries: list[TarEntry]) -> bytes:
    items = [(entry, io.BytesIO(content(entry)) if entry.kind == "file" else None) for entry in entries]
    return b"".join(archives.packed(items))


class Dribble:
    """A stream that gives little at a time."""

    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)

    def read(self, size: int = -1, /) -> bytes:
        return self.file.read(min(size, 777))


@pytest.mark.parametrize("source", [io.BytesIO, Dribble])
def test_there_and_back(source: type) -> None:
    found = []
    for entry, file in read(source(packed(ENTRIES))):
        assert (file.read() if file else b"") == content(entry)
        found.append(entry)
    seconds = [
        (entry.path, entry.kind, entry.mode, entry.mtime_ns // 10**9, entry.size, entry.target) for entry in ENTRIES
    ]
    assert [(e.path, e.kind, e.mode, e.mtime_ns // 10**9, e.size, e.target) for e in found] == seconds


def test_content_that_nobody_reads_is_passed_over() -> None:
    assert [entry.path for entry, _ in read(io.BytesIO(packed(ENTRIES)))] == [entry.path for entry in ENTRIES]


def test_the_standard_library_reads_the_same() -> None:
    with tarfile.open(fileobj=io.BytesIO(packed(ENTRIES))) as tar:
        for entry, member in zip(ENTRIES, tar, strict=True):
            assert (member.name, member.mode, member.mtime) == (entry.path, entry.mode, entry.mtime_ns // 10**9)
            assert member.linkname == entry.target
            if entry.kind == "file":
                file = tar.extractfile(member)
                assert file is not None
                assert file.read() == content(entry)


def test_tar_unpacks_it(tmp_path: Path) -> None:
    entries = [entry for entry in ENTRIES if entry.mtime_ns >= 0]
    entries = [entry for entry in entries if entry.kind != "hardlink" or entry.target == "dir/large"]
    subprocess.run(["tar", "-x", "-C", str(tmp_path)], input=packed(entries), check=True)
    for entry in entries:
        assert os.path.lexists(tmp_path / entry.path)
    assert (tmp_path / "dir/large").samefile(tmp_path / "dir/same")
    assert (tmp_path / "dir/large").read_bytes() == content(ENTRIES[3])


def test_a_file_of_more_than_8_gib() -> None:
    content = io.BytesIO(b"x" * (1 << 20))
    pieces = archives.packed([(TarEntry("huge", "file", 0o644, 0, 10**10), content)])
    assert tarfile.TarInfo.frombuf(next(pieces)[:512], "utf-8", "strict").size == 10**10
    with pytest.raises(OSError, match="became shorter"):
        list(pieces)


@pytest.mark.parametrize("cut", [0, 100, 512, 600, 3_000_000])
def test_half_an_archive(cut: int) -> None:
    with pytest.raises(DamagedArchive):
        list(read(io.BytesIO(packed(ENTRIES)[:cut])))


@pytest.mark.parametrize(
    "junk", [b"junk" * 1000, os.urandom(4096), b"\0" + b"x" * 4096], ids=["text", "random", "zero"]
)
def test_junk(junk: bytes) -> None:
    with pytest.raises(DamagedArchive):
        list(read(io.BytesIO(junk)))


@pytest.mark.parametrize("kind", [b"L", b"K", b"0"])
@pytest.mark.parametrize("size", [b"\x80" + b"\xff" * 11, b"\xff" * 12], ids=["huge", "negative"])
def test_sizes_that_nothing_can_have(kind: bytes, size: bytes) -> None:
    block = b"x".ljust(124, b"\0") + size + b"0".ljust(20, b"\0") + kind
    with pytest.raises(DamagedArchive):
        list(read(io.BytesIO(block.ljust(4096, b"\0"))))


def header(
    kind: bytes = b"0", name: bytes = b"x", *, prefix: bytes = b"", magic: bytes = b"ustar\0", size: int = 0
) -> bytes:
    numbers = b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % size + b"00000000001\0"
    block = name.ljust(100, b"\0") + numbers + b" " * 8 + kind + b"\0" * 100 + magic + b"00"
    block = (block.ljust(345, b"\0") + prefix).ljust(512, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def extended(text: bytes, kind: bytes = b"x") -> bytes:
    return header(kind, size=len(text)) + text.ljust(-(-len(text) // 512) * 512, b"\0")


@pytest.mark.parametrize(
    ("archive", "said"),
    [
        (header(b"Z"), "an entry of the unknown kind 'Z'"),
        (header(name=b""), "an entry has no name"),
        (extended(b"") + header(), "a header makes no sense"),
        (extended(b"9 path\0xy") + header(), "a header makes no sense"),
        (extended(b"99 path=x\n") + header(), "a header makes no sense"),
        (extended(b"1 path=x\n") + header(), "a header makes no sense"),
        (extended(b"x path=x\n") + header(), "a header makes no sense"),
        (extended(b"10 size=x\n") + header(), "a header makes no sense"),
        (extended(b"12 size=-10\n") + header(), "a header makes no sense"),
        (extended(b"11 mtime=x\n") + header(), "a header makes no sense"),
        (extended(b"23 mtime=1099511627776\n") + header(), "a header makes no sense"),
        (extended(b"24 mtime=-1099511627776\n") + header(), "a header makes no sense"),
        (extended(b"28 size=4611686018427387904\n") + header(), "a header makes no sense"),
        (extended(b"00000016 path=x\n") + header(), "a header makes no sense"),
        (extended(bytes((1 << 20) + 1), b"L") + header(), "a header makes no sense"),
        (header()[:200] + b"x" + header()[201:], "a header's checksum is wrong"),
    ],
)
def test_headers_that_make_no_sense(archive: bytes, said: str) -> None:
    with pytest.raises(DamagedArchive, match=said):
        list(read(io.BytesIO(archive + bytes(1024))))


@pytest.mark.parametrize(
    ("archive", "entry"),
    [
        (header(prefix=b"a/b"), TarEntry("a/b/x", "file", 0o644, 10**9)),
        (header(prefix=b"a/b", magic=b"ustar "), TarEntry("x", "file", 0o644, 10**9)),
        (extended(b"11 path=yz\n") + header(prefix=b"a"), TarEntry("yz", "file", 0o644, 10**9)),
        (extended(b"11 path=yz\n", b"g") + header(), TarEntry("x", "file", 0o644, 10**9)),
        (extended(b"long", b"L") + header(), TarEntry("long", "file", 0o644, 10**9)),
        (extended(b"13 mtime=2.5\n") + header(), TarEntry("x", "file", 0o644, 2_500_000_000)),
        (extended(b"23 mtime=1099511627775\n") + header(), TarEntry("x", "file", 0o644, (1 << 40) * 10**9 - 10**9)),
        (extended(b"24 mtime=-1099511627775\n") + header(), TarEntry("x", "file", 0o644, 10**9 - (1 << 40) * 10**9)),
        (extended(b"0000015 path=y\n\0\0") + header(), TarEntry("y", "file", 0o644, 10**9)),
        (extended(b"5 \xff=\n") + header(), TarEntry("x", "file", 0o644, 10**9)),
        (extended(b"y" * (1 << 20), b"L") + header(), TarEntry("y" * (1 << 20), "file", 0o644, 10**9)),
        (header(b"\0", b"d/"), TarEntry("d", "directory", 0o644, 10**9)),
        (header(b"\0", b"d"), TarEntry("d", "file", 0o644, 10**9)),
        (header(b"5", b"d/"), TarEntry("d", "directory", 0o644, 10**9)),
        (header(b"6"), TarEntry("x", "special", 0o644, 10**9, 0, "FIFO")),
        (header(b"3"), TarEntry("x", "special", 0o644, 10**9, 0, "device")),
    ],
)
def test_headers_of_other_programs(archive: bytes, entry: TarEntry) -> None:
    ((found, _),) = read(io.BytesIO(archive + bytes(1024)))
    assert found == entry


def test_a_real_size_that_only_the_extension_says() -> None:
    archive = extended(b"9 size=3\n") + header(size=0) + b"abc".ljust(512, b"\0") + header(name=b"y")
    assert [(entry.path, entry.size) for entry, _ in read(io.BytesIO(archive + bytes(1024)))] == [("x", 3), ("y", 0)]


@pytest.mark.parametrize("size", [0, 1, archives._PIECE - 1024, archives._PIECE, 3 * archives._PIECE + 1])
def test_an_archive_ends_with_its_record_and_no_more(size: int) -> None:
    archive = b"".join(archives.packed([(TarEntry("a", "file", 0o644, 0, size), io.BytesIO(bytes(size)))]))
    with_end = 512 + -(-size // 512) * 512 + 1024
    assert len(archive) == -(-with_end // archives._RECORD) * archives._RECORD


@pytest.mark.parametrize("length", [99, 100, 101, 155, 156, 255, 256, 257])
def test_long_names_and_targets_are_read_by_others_too(length: int) -> None:
    for path in ("n" * length, "/".join(("d" * 50, "e" * (length - 51))), "é" * (length // 2) + "x" * (length % 2)):
        entries = [
            TarEntry(path, "file", 0o644, 7 * 10**9, 1),
            TarEntry("link", "link", 0o777, 7 * 10**9, target=path),
            TarEntry("hard", "hardlink", 0o644, 7 * 10**9, target=path),
        ]
        archive = packed(entries)
        assert [entry for entry, _ in read(io.BytesIO(archive))] == entries
        with tarfile.open(fileobj=io.BytesIO(archive)) as others:
            assert [(one.name, one.linkname) for one in others] == [(entry.path, entry.target) for entry in entries]


def test_an_empty_field_is_zero() -> None:
    assert [archives._value(field) for field in (bytes(8), b"       \0", b"0000017\0", b"\x80\0\x01", b"\xff" * 8)] == [
        0,
        0,
        15,
        1,
        -1,
    ]
