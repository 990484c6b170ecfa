"""The common part of the readers of reports. Jobs write the reports, so each reader has limits, and refuses what exceeds them."""

from __future__ import annotations

import re
from urllib.parse import unquote

from loom.util.controls import cleaned
from loom.util.units import shortened


class UnreadableReport(ValueError):
    """Not a report of the expected format, or one beyond the limits; the message has the reason."""


def project_path(path: str, project_dir: str) -> str:
    """Return a path or `file:` URL of a report, relative to the project if it is inside. `project_dir`: in the job."""
    if path.startswith("file:"):
        path = unquote(re.sub("^file:(//[^/]*(?=/))?", "", path))
    return path.replace("\\", "/").removeprefix(project_dir.rstrip("/") + "/").removeprefix("./")


def short(text: str, most: int = 500) -> str:
    """Return the text without colours, and with at most so many characters."""
    return shortened(cleaned(text), most)
