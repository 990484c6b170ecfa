"""Uploads as Azure's blob client makes them: all at once, or blocks in any order and then the list of their names."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

from loom.storage.tar import Content
from loom.util.digests import Hashed
from loom.util.units import rough_size

MOST_BLOCKS = 50_000
"""As Azure has it."""
_CHUNK = 1 << 20


class Refused(Exception):
    """A request that is refused: the HTTP status, Twirp's error code, and the reason."""

    def __init__(self, status: int, code: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.code = code


class Room:
    """The bytes that all open uploads of a run may take on the disk. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self._left = self._limit = limit
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        with self._lock:
            if size > self._left:
                limit = rough_size(self._limit)
                raise Refused(413, "resource_exhausted", f"uploads take more than {limit} (cache_max_size)")
            self._left -= size

    def give_back(self, size: int) -> None:
        with self._lock:
            self._left += size


class Upload:
    """One upload into a folder of its own. Thread-safe; `size` and `sha256` are known when it is complete."""

    def __init__(self, folder: Path, room: Room) -> None:
        folder.mkdir(parents=True)
        self.file = folder / "content"
        self.size = 0
        self.sha256 = ""
        self._folder = folder
        self._room = room
        self._blocks: dict[str, tuple[Path, int]] = {}
        self._held = 0
        self._lock = threading.Lock()

    def block(self, name: str, content: Content, size: int) -> None:
        """Keep a block until the list of blocks names it; a second one of the same name replaces it."""
        with self._written(content, size) as (path, _), self._lock:
            before = self._blocks.get(name)
            if before is None and len(self._blocks) >= MOST_BLOCKS:
                raise Refused(409, "resource_exhausted", f"an upload has at most {MOST_BLOCKS} blocks")
            self._blocks[name] = path, size
        if before is not None:
            self._drop(*before)

    def whole(self, content: Content, size: int) -> None:
        """Take the content in one request."""
        with self._written(content, size) as (path, digest), self._lock:
            before = self._complete(path, size, digest)
        self._give_back(before)

    def joined(self, names: Sequence[str]) -> None:
        """Join these blocks to the content, and drop the others. Refused for a name without a block."""
        with self._lock:
            blocks, self._blocks = self._blocks, {}
            if unknown := set(names) - set(blocks):
                raise Refused(400, "invalid_argument", f"{len(unknown)} blocks of the list were not uploaded")
            whole = self._folder / token_hex(8)
            with whole.open("wb") as file:
                joined = Hashed(file)
                for name in dict.fromkeys(names):
                    path, _ = blocks[name]
                    with path.open("rb") as block:
                        shutil.copyfileobj(block, joined, _CHUNK)
                    path.unlink()  # so that the content is on disk once
            before = self._complete(whole, joined.size, joined.digest.hexdigest())
        self._give_back(before)
        for name in set(blocks) - set(names):
            self._drop(*blocks[name])

    def close(self) -> None:
        """Remove what is left of it."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._give_back(self._held)

    def _complete(self, whole: Path, size: int, digest: str) -> int:
        """Set the content; return the size of an earlier one."""
        before = self.size
        whole.replace(self.file)
        self.size, self.sha256 = size, digest
        return before

    @contextmanager
    def _written(self, content: Content, size: int) -> Iterator[tuple[Path, str]]:
        self._room.take(size)
        with self._lock:
            self._held += size
        path = self._folder / token_hex(8)
        try:
            with path.open("wb") as file:
                written = Hashed(file)
                while written.size < size:
                    data = content.read(min(_CHUNK, size - written.size))
                    if not data:
                        raise Refused(400, "malformed", "the request ended before its content")
                    written.write(data)
            yield path, written.digest.hexdigest()
        except BaseException:
            self._drop(path, size)
            raise

    def _drop(self, path: Path, size: int) -> None:
        path.unlink(missing_ok=True)
        self._give_back(size)

    def _give_back(self, size: int) -> None:
        with self._lock:
            self._held -= size
        self._room.give_back(size)
