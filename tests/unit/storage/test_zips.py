"""Zip archives that others made: read whole, or refused as damaged."""

import io
import random
import zipfile

import pytest

from loom.storage import zips
from loom.storage.tar import DamagedArchive
from loom.storage.unpacking import UnsafeArchive, checked


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a/b.txt", "hello" * 100)
        made.writestr("c/", "")
        with made.open(zipfile.ZipInfo("big"), "w", force_zip64=True) as big:
            big.write(b"x" * 100)
    return file.getvalue()


def read(data: bytes) -> dict[str, bytes | None]:
    found: dict[str, bytes | None] = {}
    for entry, content in checked(zips.items(io.BytesIO(data))):
        parts = []
        left = entry.size
        while content is not None and left > 0:
            parts.append(content.read(min(left, 64)))
            left -= len(parts[-1])
        found[entry.path] = b"".join(parts) if content is not None else None
    return found


def test_files_and_directories() -> None:
    assert read(archive()) == {"a/b.txt": b"hello" * 100, "c": None, "big": b"x" * 100}


def test_entries_have_what_the_archive_says() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name, attributes in (("a/b.txt", 0o640 << 16), ("a/c.txt", 1), ("d/", 0o700 << 16), ("e/", 1)):
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 2))
            info.external_attr = attributes
            made.writestr(info, b"" if name.endswith("/") else b"text")
    entries = [(entry.path, entry.kind, entry.size, entry.mode, entry.mtime_ns) for entry, _ in zips.items(file)]
    at = 315_532_802_000_000_000
    assert entries == [
        ("a/b.txt", "file", 4, 0o640, at),
        ("a/c.txt", "file", 4, 0o644, at),
        ("d", "directory", 0, 0o700, at),
        ("e", "directory", 0, 0o755, at),
    ]
    with pytest.raises(DamagedArchive, match="it is not a zip file"):
        read(b"no archive")


def test_damaged_bytes_are_refused_as_such() -> None:
    whole, random_ = archive(), random.Random(3)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(random_.randint(1, 4)):
            data[random_.randrange(len(data))] = random_.choice([0, 255, 127, random_.randrange(256)])
        try:
            read(bytes(data[: random_.choice([len(data), random_.randrange(len(data))])]))
            outcomes["read"] += 1
        except (DamagedArchive, UnsafeArchive):
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 100


@pytest.mark.parametrize("offset", [2**64 - 1, 2**62, 0])
def test_a_list_that_is_nowhere(offset: int) -> None:
    whole = archive()
    end = whole.rindex(b"PK\5\6")
    locator = b"PK\6\7" + bytes(4) + offset.to_bytes(8, "little") + b"\1\0\0\0"
    with pytest.raises(DamagedArchive):
        read(whole[:end] + locator + whole[end:])


def test_a_list_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zips, "MOST_LISTED", 10)
    with pytest.raises(DamagedArchive, match="its list of files"):
        read(archive())


def test_a_file_that_is_shorter_than_its_entry_says() -> None:
    whole = bytearray(archive())
    central = whole.index(b"PK\1\2")
    whole[central + 24 : central + 28] = (1000).to_bytes(4, "little")
    with pytest.raises(DamagedArchive, match="shorter than its entry says"):
        read(bytes(whole))


def test_the_list_of_a_large_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)  # as of one with 65,536 files
    whole = archive()
    assert b"PK\6\7" in whole
    assert list(read(whole)) == ["a/b.txt", "c", "big"]
    monkeypatch.setattr(zips, "MOST_LISTED", 10)
    with pytest.raises(DamagedArchive, match=r"its list of files has \d{3} bytes"):
        read(whole)


def test_damage_without_a_message_has_the_name_of_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise EOFError

    monkeypatch.setattr(zips, "_check_list", broken)
    with pytest.raises(DamagedArchive, match=r"^EOFError$"):
        list(zips.items(io.BytesIO()))
    whole = zips._Whole(io.BytesIO(b"x"), 1)
    whole._content.read = broken  # type: ignore[method-assign]
    with pytest.raises(DamagedArchive, match=r"^EOFError$"):
        whole.read(1)
