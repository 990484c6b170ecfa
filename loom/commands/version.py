"""`loom version --json`."""

from __future__ import annotations

import sys

from loom import __version__
from loom.analysis.printed import Version
from loom.render.output import print_json


def print_document() -> None:
    print_json(Version(loom=__version__, python=sys.version.split()[0]))
