"""`loom version --json`."""

from __future__ import annotations

import sys

from loom import __version__
from loom.render.output import print_kind


def print_document() -> None:
    print_kind("version", {"loom": __version__, "python": sys.version.split()[0]})
