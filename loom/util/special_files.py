"""Sockets, FIFOs and devices: loom never copies them, and reports them."""

from __future__ import annotations

import stat


def special_kind(mode: int) -> str | None:
    """Return `socket`, `FIFO` or `device` for a mode of `lstat`; None for a file, directory or link."""
    kind = stat.S_IFMT(mode)
    if kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        return None
    return {stat.S_IFSOCK: "socket", stat.S_IFIFO: "FIFO"}.get(kind, "device")
