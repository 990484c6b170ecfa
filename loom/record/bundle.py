"""A run in one file, for somebody else: its record, how to run it again, and a git bundle of what ran.

A zstd-compressed tar: `manifest.json` first, then `tree.pack` (a git bundle, unless the other one has the commit), then the
record below `record/`. A bundle comes from a stranger: it is unpacked into a private directory by the rules of
`storage.unpacking`, within limits of its own, and its manifest is validated; nothing in it names a path on this machine.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Annotated, Literal, cast

import zstandard
from msgspec import Struct
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from loom.errors import RequestError
from loom.record.run_paths import RunPaths
from loom.record.store import RunEntry, entry_at
from loom.storage.tar import Content, DamagedArchive, TarEntry, Writer, read
from loom.storage.unpacking import UnsafeArchive, checked, unpack_items
from loom.util import atomic, jsons
from loom.util.untrusted_files import open_regular

SUFFIX = ".bundle"
MANIFEST, PACK, RECORD = "manifest.json", "tree.pack", "record"
MOST_BYTES = 4 << 30
MOST_FILES = 200_000
_MOST_MANIFEST = 1 << 20
_WINDOW = 1 << 27
_LEFT_OUT = ("artifacts", "artifacts.tar.gz", "saved", "builds", "report.html", "follower.lock")
"""What no reader of a record needs, or only the machine that made it."""

Sha = Annotated[str, StringConstraints(pattern=r"^(?:[0-9a-f]{40}|[0-9a-f]{64})$")]
Text = Annotated[str, StringConstraints(max_length=4096, pattern=r"^[^\x00-\x1f\x7f]*$")]
Texts = Annotated[tuple[Text, ...], Field(max_length=1000)]
Relative = Annotated[str, StringConstraints(max_length=1000, pattern=r"^[^/\x00-\x1f][^\x00-\x1f]*$")]
Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class ReplayOptions(_Strict):
    """The options of `loom run` that decide what runs."""

    names: Texts = ()
    workflow: Relative | None = None
    stage: Texts = ()
    from_job: Text | None = None
    needs: bool | None = None
    var: Texts = ()
    inputs: Texts = ()
    matrix: Texts = ()
    event: Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,40}$")] = "push"
    strict: bool = False
    no_delay: bool = False
    container: bool | None = None
    deploy: bool | None = None


class BundleManifest(_Strict):
    schema_version: Literal["loom.bundle.v1"] = "loom.bundle.v1"
    kind: Literal["bundle"] = "bundle"
    loom_version: Text
    run_id: Annotated[str, StringConstraints(pattern=r"^[0-9]{16,20}$")]
    head_sha: Sha
    tree_sha: Sha
    tip_sha: Sha
    """A commit with the tree: HEAD, or one on top of it with what was not committed."""
    branch: Text | None
    pack: bool
    """Whether it has objects; if not, HEAD is all, and the other one has it."""
    options: ReplayOptions
    images: dict[Text, Digest]
    """By the name in the workflow, the digest that ran."""
    secrets: Texts
    """The names of the variables that secrets are in."""


class UnpackedBundle(Struct, frozen=True):
    manifest: BundleManifest
    folder: Path

    @property
    def entry(self) -> RunEntry:
        """Return the run. RecordError for a missing or foreign record."""
        return entry_at(RunPaths(root=self.folder / RECORD, run_id=self.manifest.run_id))


def write_bundle(target: Path, manifest: BundleManifest, record: Path, pack: Path | None) -> None:
    """Write the file, readable by the user alone. OSError when that can't be done."""
    with (
        atomic.replacing(target, mode=0o600) as draft,
        draft.open("wb") as file,
        zstandard.ZstdCompressor(level=3).stream_writer(file, closefd=False) as packed,
    ):
        archive = Writer(cast("IO[bytes]", packed))
        with tempfile.TemporaryFile() as own:
            own.write(jsons.encode_file(manifest.model_dump(mode="json")))
            _add(archive, MANIFEST, own)
        if pack is not None:
            with pack.open("rb") as content:
                _add(archive, PACK, content)
        for path in _files(record):
            with open_regular(path) as content:
                _add(archive, f"{RECORD}/{path.relative_to(record)}", content)
        archive.finish()


def _add(archive: Writer, name: str, content: IO[bytes]) -> None:
    size = content.seek(0, os.SEEK_END)
    content.seek(0)
    archive.add(TarEntry(name, "file", 0o600, 0, size), content)


def _files(record: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(record):
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT)
        for name in sorted(names):
            path = Path(folder) / name
            if name not in _LEFT_OUT and not name.startswith(("handed-over", ".")) and not path.is_symlink():
                yield path


def unpacked(path: Path) -> UnpackedBundle:
    """Unpack a bundle into a private directory, which is removed when the process ends.

    RequestError for a file that is no bundle, or an unsafe or too large one.
    """
    folder = Path(tempfile.mkdtemp(prefix="loom-bundle-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        with (
            open_regular(path) as file,
            zstandard.ZstdDecompressor(max_window_size=_WINDOW).stream_reader(file) as data,
        ):
            unpack_items(checked(_bounded(read(cast("Content", data)))), folder)
        with open_regular(folder / MANIFEST) as content:
            text = content.read(_MOST_MANIFEST + 1)
        if len(text) > _MOST_MANIFEST:
            raise UnsafeArchive("its manifest is too long")
        manifest = BundleManifest.model_validate_json(text)
    except (OSError, zstandard.ZstdError, DamagedArchive, UnsafeArchive, ValidationError) as error:
        why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        raise RequestError(
            f"{path} is no bundle that this loom reads: {'; '.join(why.splitlines()[:3])}",
            hint="ask for it again; `loom bundle RUN -o FILE` makes one",
            code="BUNDLE_INVALID",
        ) from error
    return UnpackedBundle(manifest, folder)


def _bounded(items: Iterable[tuple[TarEntry, Content | None]]) -> Iterator[tuple[TarEntry, Content | None]]:
    """Yield files alone. UnsafeArchive for anything else, and beyond the limits of a bundle."""
    bytes_, files = 0, 0
    for entry, content in items:
        bytes_, files = bytes_ + entry.size, files + 1
        if bytes_ > MOST_BYTES or files > MOST_FILES:
            raise UnsafeArchive(f"it holds more than {MOST_BYTES >> 30} GiB or {MOST_FILES:,} files")
        if entry.kind != "file" or not (entry.path in (MANIFEST, PACK) or entry.path.startswith(f"{RECORD}/")):
            raise UnsafeArchive(f"{entry.path[:100]!r} is no part of a bundle")
        yield entry, content
