"""A snapshot as layers of an image: the same files give the same layers, so that a registry and a node get each one once.

The files are cut into layers in the order of their paths. Where to cut depends on the paths alone, so that a file that
changes, comes or goes affects its own layer. The workspace's files are read in each run, since their content decides; a
layer is packed only when no earlier run has packed it.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from loom.errors import ProviderError
from loom.providers.files import below, members_of
from loom.storage.packing import Hashed, digest_line
from loom.storage.tar import Content, TarEntry, packed
from loom.util import atomic
from loom.util.private import make_private
from loom.util.untrusted_files import open_regular

if TYPE_CHECKING:
    from io import BufferedReader

WORKSPACE = "workspace"
"""The folder of the workspace in the image, below `ROOT`; the stores are beside it, by number."""
ROOT = "loom-snapshot"
_MOST_LAYERS = 64
_SECOND = 1_000_000_000
_SMALLEST = 4 << 20


class Item(Struct, frozen=True):
    """A member of a layer. `content`: what decides whether it is the same; for a file of the workspace, its SHA-256."""

    entry: TarEntry
    content: str


class LayerSource(Struct, frozen=True, kw_only=True):
    """A folder that goes into the image: where it is, and its folder there."""

    source: Path
    folder: str
    by_name: bool = False
    """Its files never change under one name, size and time (git's objects), so they need not be read."""


class Layer(Struct, frozen=True, kw_only=True):
    """A packed layer. `digest` and `size` are those of the blob, `diff_id` of what is in it."""

    digest: str
    size: int
    diff_id: str


class PlannedLayer(Struct, frozen=True, kw_only=True):
    """A layer before it is packed."""

    part: LayerSource
    items: tuple[Item, ...]

    @property
    def key(self) -> str:
        found = hashlib.sha256(f"{self.part.folder}\0".encode())
        for item in self.items:
            found.update(f"{item!r}\n".encode())
        return found.hexdigest()


def planned(parts: Sequence[LayerSource]) -> list[PlannedLayer]:
    """Divide the files of these folders into layers."""
    read = [(part, list(_items(part))) for part in parts]
    total = sum(item.entry.size for _, items in read for item in items)
    smallest = _SMALLEST
    while total > smallest * _MOST_LAYERS:
        smallest *= 2
    return [PlannedLayer(part=part, items=tuple(group)) for part, items in read for group in _cut(items, smallest)]


def _cut(items: Iterable[Item], smallest: int) -> Iterator[list[Item]]:
    group: list[Item] = []
    size, top = 0, None
    for item in items:
        own = item.entry.path.partition("/")[0] == ".git"
        # Git rewrites its files in each run, so they form a layer of their own.
        if group and (
            own != top
            or item.entry.size > smallest
            or (size > smallest and zlib.crc32(os.fsencode(item.entry.path)) % 16 == 0)
        ):
            yield group
            group, size = [], 0
        group.append(item)
        size, top = size + item.entry.size + 512, own
    if group:
        yield group


def _items(part: LayerSource) -> Iterator[Item]:
    """Read the entries of a folder; PermissionError for one that can't be read, as git would have it."""
    for entry, file in members_of(part.source, ["."]):
        if entry.path == ".":
            continue
        what = ""
        if file is not None:
            by_name = part.by_name
            what = (
                str(entry.mtime_ns)
                if by_name
                else hashlib.file_digest(cast("BufferedReader", file), "sha256").hexdigest()
            )
        mtime_ns = entry.mtime_ns // _SECOND * _SECOND if entry.kind == "file" else 0
        yield Item(replace(entry, mtime_ns=mtime_ns), what)


def digests(plan: Iterable[PlannedLayer]) -> bytes:
    """Return the digests of the workspace's files as `sha256sum` reads them.

    Without names that have another form in each `sha256sum`.
    """
    return b"".join(
        digest_line(item.content, item.entry.path)
        for layer in plan
        if not layer.part.by_name
        for item in layer.items
        if item.content
    )


class Packer:
    """Packs layers, and remembers in `folder` what became of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def known(self, plan: PlannedLayer) -> Layer | None:
        """The layer as an earlier run packed it."""
        try:
            return msgspec.json.decode((self._folder / plan.key).read_bytes(), type=Layer)
        except (OSError, msgspec.DecodeError):
            return None

    @contextmanager
    def pack(self, plan: PlannedLayer) -> Iterator[tuple[Layer, IO[bytes]]]:
        """Give the layer and its content."""
        inner = hashlib.sha256()
        # The header has no time and no name: the same files give the same bytes.
        gzip = zlib.compressobj(1, zlib.DEFLATED, 31)
        with tempfile.TemporaryFile(prefix="loom-layer-") as file:
            outer = Hashed(file)
            for piece in packed(_members(plan)):
                inner.update(piece)
                outer.write(gzip.compress(piece))
            outer.write(gzip.flush())
            layer = Layer(
                digest=f"sha256:{outer.digest.hexdigest()}", size=outer.size, diff_id=f"sha256:{inner.hexdigest()}"
            )
            make_private(self._folder.parent)
            self._folder.mkdir(exist_ok=True, mode=0o700)
            atomic.write(self._folder / plan.key, msgspec.json.encode(layer))
            file.seek(0)
            yield layer, file


def _members(plan: PlannedLayer) -> Iterator[tuple[TarEntry, Content | None]]:
    """The members of a layer, below its folder."""
    for item in plan.items:
        entry = below(f"{ROOT}/{plan.part.folder}", item.entry)
        if entry.kind != "file":
            yield entry, None
            continue
        with open_regular(plan.part.source / item.entry.path) as file:
            content = Hashed(file)
            yield entry, content
            if not plan.part.by_name and content.digest.hexdigest() != item.content:
                raise ProviderError(f"{plan.part.source / item.entry.path} changed while the snapshot was packed")
