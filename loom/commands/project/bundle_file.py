"""A run in one file, for somebody else: its record, and a git bundle of what ran.

A zstd-compressed tar: `manifest.json` first, then `tree.pack` (a git bundle, unless the other one has the commit), one more
for each submodule, the record below `record/`, whose plan says what runs, and below `actions/` the actions that it uses, by
their commits. A bundle comes from a stranger: it is unpacked into a private directory by the rules of `storage.unpacking`,
within limits of its own, and its manifest is validated; nothing in it names a path on this machine.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import zstandard
from msgspec import Meta, Struct

from loom.errors import RecordError, RequestError
from loom.record.reader import Reading
from loom.record.run_paths import RunPaths
from loom.record.store import entry_at
from loom.snapshot import occupied
from loom.snapshot.bundles import PACK, BundledTree, Text
from loom.storage.tar import DamagedArchive, Item, TarEntry, packed, read
from loom.storage.unpacking import UnsafeArchive, checked, unpack_items
from loom.util import atomic, jsons, startup, typed
from loom.util.private import make_in_cache
from loom.util.units import rough_size
from loom.util.untrusted_files import open_regular, read_regular

SUFFIX = ".bundle"
MANIFEST, RECORD, ACTIONS = "manifest.json", "record", "actions"
MOST_BYTES = 4 << 30
MOST_FILES = 50_000
_MOST_MANIFEST = 1 << 20
_WINDOW = 1 << 27
_LEFT_OUT = ("artifacts", "artifacts.tar.gz", "saved", "builds", "report.html", "follower.lock", "seen.jsonl")
"""The files that no reader of a record needs, or only the machine that made it."""

_PACK = re.compile(r"(\d+\.)?tree\.pack")


class BundleManifest(BundledTree, forbid_unknown_fields=True):
    schema_version: Literal["loom.bundle.v1"] = "loom.bundle.v1"
    kind: Literal["bundle"] = "bundle"
    loom_version: Text
    run_id: Annotated[str, Meta(pattern=r"^[0-9]{16,20}\Z")]
    branch: Text | None
    machine: Text = ""
    """CPUs and memory of the machine that made it."""
    submodules: Annotated[dict[str, BundledTree], Meta(max_length=1000)] = {}
    not_searched: Annotated[tuple[Text, ...], Meta(max_length=10_000)] = ()
    """The secrets for whose values it was not searched, as its maker wished."""


def pack_name(number: int) -> str:
    """Return the name of the file with the objects of the repository, or of its submodule of this number."""
    return f"{number}.{PACK}" if number else PACK


class UnpackedBundle(Struct, frozen=True):
    manifest: BundleManifest
    folder: Path
    reading: Reading


def write_bundle(
    target: Path,
    manifest: BundleManifest,
    record: Path,
    packs: Mapping[str, Path],
    actions: Mapping[str, Path],
    check: Callable[[str, Callable[[int], bytes]], None],
) -> None:
    """Write the file, readable by the user alone; `actions`: directories by their commits. OSError when that can't be done.

    `check` gets the name and the content of all but the packs.
    """
    with (
        atomic.replacing(target, mode=0o600) as draft,
        draft.open("wb") as file,
        zstandard.ZstdCompressor(level=3).stream_writer(file, closefd=False) as stream,
    ):
        for piece in packed(_checked(_entries(manifest, packs, record, actions), check)):
            stream.write(piece)


def _entries(
    manifest: BundleManifest, packs: Mapping[str, Path], record: Path, actions: Mapping[str, Path]
) -> Iterator[Item]:
    content = jsons.encode_file(manifest)
    yield TarEntry(MANIFEST, "file", 0o600, 0, len(content)), io.BytesIO(content)
    files = [(name, pack, 0o600) for name, pack in packs.items()]
    files += [(f"{RECORD}/{path.relative_to(record)}", path, 0o600) for path in record_files(record)]
    for commit, directory in actions.items():
        for path in sorted(path for path in directory.rglob("*") if path.is_symlink() or path.is_file()):
            name = f"{ACTIONS}/{commit}/{path.relative_to(directory)}"
            if path.is_symlink():
                yield TarEntry(name, "link", 0o777, 0, 0, str(path.readlink())), None
            else:
                files.append((name, path, path.stat().st_mode & 0o777))
    for name, path, mode in files:
        with open_regular(path) as file:
            yield TarEntry(name, "file", mode, 0, os.fstat(file.fileno()).st_size), file


def _checked(items: Iterable[Item], check: Callable[[str, Callable[[int], bytes]], None]) -> Iterator[Item]:
    for entry, content in items:
        check("a file's name", io.BytesIO(os.fsencode(f"{entry.path}\n{entry.target}")).read)
        if isinstance(content, (io.BytesIO, io.BufferedReader)) and not _PACK.fullmatch(entry.path):
            check(entry.path, content.read)
            content.seek(0)
        yield entry, content


def record_files(record: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(record):
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT)
        for name in sorted(names):
            path = Path(folder) / name
            if name not in _LEFT_OUT and not name.startswith(("handed-over", ".")) and not path.is_symlink():
                yield path


def unpacked(path: Path, within: Path) -> UnpackedBundle:
    """Unpack a bundle into a private directory, which goes with the command. RequestError for what is no bundle, or unsafe."""
    make_in_cache(within)
    folder = Path(tempfile.mkdtemp(dir=within))
    ending = ExitStack()
    startup.at_end.append(ending.close)
    ending.enter_context(occupied(folder))
    ending.callback(shutil.rmtree, folder, ignore_errors=True)
    try:
        with (
            open_regular(path) as file,
            zstandard.ZstdDecompressor(max_window_size=_WINDOW).stream_reader(file) as data,
        ):
            unpack_items(checked(_bounded(read(data), shutil.disk_usage(folder).free // 2)), folder)
        data_of_manifest = read_regular(folder / MANIFEST, at_most=_MOST_MANIFEST)
        manifest = typed.decode(data_of_manifest, BundleManifest)
        entry = entry_at(RunPaths(root=folder / RECORD, run_id=manifest.run_id))
        return UnpackedBundle(manifest, folder, Reading(entry, foreign=True))
    except (OSError, zstandard.ZstdError, DamagedArchive, UnsafeArchive, msgspec.DecodeError, RecordError) as error:
        why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        if isinstance(error, zstandard.ZstdError):
            why = "it is damaged, or another kind of file"
        why = why.replace(f"{folder}/", "its ")
        raise RequestError(
            f"{path} is no bundle that this loom reads: {why}",
            hint="ask for it again; `loom bundle RUN -o FILE` makes one",
            code="BUNDLE_INVALID",
        ) from error


def _bounded(items: Iterable[Item], free: int) -> Iterator[Item]:
    """Yield files, and links of actions. UnsafeArchive for anything else, and beyond the limits of a bundle."""
    most, bytes_, files = min(MOST_BYTES, free), 0, 0
    for entry, content in items:
        bytes_, files = bytes_ + entry.size, files + 1
        if bytes_ > most or files > MOST_FILES:
            raise UnsafeArchive(f"it holds more than {rough_size(most)} or {MOST_FILES:,} files")
        of_action = entry.path.startswith(f"{ACTIONS}/")
        known = (
            of_action or entry.path == MANIFEST or _PACK.fullmatch(entry.path) or entry.path.startswith(f"{RECORD}/")
        )
        if not known or (entry.kind != "file" and not (of_action and entry.kind == "link")):
            raise UnsafeArchive(f"{entry.path[:100]!r} is no part of a bundle")
        yield entry, content
