"""Decide which paths git may have in an index, a tree or a patch, by the rules of its own `verify_path`.

The protection of NTFS and HFS+ is always on: a path that is `.git` on one of them is refused by every server too.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from loom.errors import SnapshotError
from loom.snapshot.model import readable

_UNSEEN = rb"(?:\xe2\x80[\x8c-\x8f\xaa-\xae]|\xe2\x81[\xaa-\xaf]|\xef\xbb\xbf)*"
"""Code points that HFS+ ignores in a name."""
_REFUSED = re.compile(
    rb"(?:^|/)(?:\.{0,2}(?:/|$)|"
    + _UNSEEN
    + _UNSEEN.join((rb"\.", b"g", b"i", b"t", rb"(?:/|$))"))
    # NTFS drops dots and blanks at the end, and what follows a colon names a stream of the file.
    + rb"|(?:^|[/\\])(?:\.git|git~1)[ .]*(?:[/\\:]|$)",
    re.IGNORECASE,
)
_PLAIN = rb"(?:\.{0,2}[/\0]|\.[gG][iI][tT][ .]*[/:\0])"
_SUSPICIOUS = re.compile(b"/" + _PLAIN), re.compile(b"\t" + _PLAIN)
"""They find such paths in a listing, without the rare characters. Two literal beginnings are ten times as fast as a choice."""


def is_refused(path: str) -> bool:
    """Return whether git would refuse a path: it leads out of its tree, or into a `.git`."""
    return "\0" in path or _REFUSED.search(os.fsencode(path)) is not None


def checked_listing(output: bytes, index: Path) -> list[str]:
    """Split the output of `ls-files -z` with facts and a tab before each path. SnapshotError for a path that git refuses.

    git lists what the file of the `index` has, and the file may have come with an archive.
    """
    items = os.fsdecode(output).split("\0")[:-1]
    if any(pattern.search(output) for pattern in _SUSPICIOUS):
        looked_at = items
    elif output.isascii() and b"~" not in output and b"\\" not in output:
        return items
    else:
        looked_at = [item for item in items if not item.isascii() or "~" in item or "\\" in item]
    for item in looked_at:
        if is_refused(path := item.partition("\t")[2]):
            raise SnapshotError(
                f"{index}: it holds the path {readable(path)}, which leads out of the checkout or into git's own files",
                hint="git never writes such a path, so somebody crafted this directory: remove it, and clone the repository",
                code="INDEX_PATH_REFUSED",
            )
    return items
