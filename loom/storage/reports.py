"""What the readers of reports share. Jobs write the reports, so each reader has limits, and refuses what exceeds them."""

from __future__ import annotations

import re
from typing import IO
from urllib.parse import unquote
from xml.parsers import expat

_CHUNK = 1 << 16
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class UnreadableReport(ValueError):
    """Not a report of the expected format, or one beyond the limits; the message has the reason."""


def parse_xml(parser: expat.XMLParserType, file: IO[bytes], most_bytes: int) -> None:
    """Feed the parser with the file. UnreadableReport for a file that is larger, or not well-formed."""
    size = 0
    try:
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            if size > most_bytes:
                raise UnreadableReport(f"it is larger than {most_bytes >> 20} MiB")
            parser.Parse(chunk, False)
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        raise UnreadableReport(f"it is not well-formed XML: {error}") from error
    except (LookupError, ValueError, OverflowError) as error:
        if isinstance(error, UnreadableReport):
            raise
        raise UnreadableReport(f"it can't be read: {error}") from error


def in_project(path: str, project_dir: str) -> str:
    """Return a path or `file:` URL of a report, relative to the project if it is inside. `project_dir`: in the job."""
    if path.startswith("file:"):
        path = unquote(re.sub("^file:(//[^/]*(?=/))?", "", path))
    return path.replace("\\", "/").removeprefix(project_dir.rstrip("/") + "/").removeprefix("./")


def short(text: str, most: int = 500) -> str:
    """Return the text without colours, and with at most so many characters."""
    text = _COLOUR.sub("", text)
    return text if len(text) <= most else text[: most - 1] + "…"
