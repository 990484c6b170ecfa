"""Sockets, FIFOs and devices: loom leaves them out of all that it copies, and names them."""

from __future__ import annotations

import stat


def special_kind(mode: int) -> str | None:
    """`socket`, `FIFO` or `device` by the mode of `lstat`; None for a file, a directory or a link."""
    kind = stat.S_IFMT(mode)
    if kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        return None
    return {stat.S_IFSOCK: "socket", stat.S_IFIFO: "FIFO"}.get(kind, "device")
