"""`loom version`."""

import sys

from loom import __version__
from loom.cli import options


def version(as_json: options.AsJson = False) -> None:
    """Print loom's version."""
    if not as_json:
        print(f"loom {__version__}")
        return
    from loom.render.output import print_kind  # late: the text alone needs nothing

    print_kind("version", {"loom": __version__, "python": sys.version.split()[0]})
