"""A workspace to take things from, and a stand-in for a session that only knows tar streams."""

import io
import os
import tarfile
from collections.abc import Callable, Generator, Iterable
from pathlib import Path

from loom.providers.files import members_in
from loom.storage.tar import Item, packed
from loom.storage.workspace import Skipped


class TarSession:
    """Keeps the workspace in a directory, and lets nobody see it but as tar streams (as a remote engine does)."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, paths: Iterable[str], on_skipped: Callable[[Skipped], None]) -> Generator[Item, None, None]:
        def told(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
            if not member.isfifo():
                return member
            on_skipped(Skipped.special(member.name, "FIFO"))
            return None

        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path in paths:
                if os.path.lexists(self.root / path):
                    tar.add(self.root / path, arcname=path, filter=told)
        data = buffer.getvalue()
        pieces = (data[at : at + 7000] for at in range(0, len(data), 7000))
        yield from members_in([("", pieces)], on_skipped)

    def put(self, items: Iterable[Item]) -> None:
        with tarfile.open(fileobj=io.BytesIO(b"".join(packed(items)))) as tar:
            tar.extractall(self.root, filter="fully_trusted")


def tree(root: Path) -> dict[str, str]:
    """Every path below with its mode and content, or where it points."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_dir():
            found[name] = "dir"
        else:
            found[name] = f"{path.stat().st_mode & 0o777:o} {path.read_bytes()!r}"
    return found
