"""Reads what `loom report` packed into a page."""

import base64
import re
import zlib

_PIECE = re.compile(r'<script type="text/plain" data-first="(\d+)" data-count="(\d+)">([^<]*)</script>')


def unpacked(data: str) -> list[tuple[str, int, str]]:
    """Stream, milliseconds and text of each line of a piece."""
    packed = zlib.decompress(base64.b64decode(data)).decode().split("\n")
    heads = [line.partition("\t") for line in packed]
    return [(head[0], int(head[1:] or 0), text) for head, _, text in heads]


def log_lines(page: str) -> list[str]:
    """The lines of all logs, in the order of the page."""
    return [text for _, _, data in _PIECE.findall(page) for _, _, text in unpacked(data)]
