"""A workspace to take things from, and a stand-in for a session that only knows tar streams."""

import io
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from loom.storage.workspace import Skipped


class TarSession:
    """Keeps the workspace in a directory, and lets nobody see it but as tar streams (as a remote engine does)."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get_archive(
        self, paths: Iterable[str], on_skipped: Callable[[Skipped], None] = lambda _: None
    ) -> Iterator[bytes]:
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
        for at in range(0, len(data), 7000):
            yield data[at : at + 7000]

    def put_archive(self, archive: Iterable[bytes]) -> None:
        with tarfile.open(fileobj=io.BytesIO(b"".join(archive))) as tar:
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
