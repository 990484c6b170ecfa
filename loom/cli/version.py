"""`loom version`."""

import sys

from loom import __version__
from loom.cli import options


def version(as_json: options.AsJson = False) -> None:
    """Print loom's version."""
    if not as_json:
        print(f"loom {__version__}")
        return
    from loom.analysis.printed import Version  # late: the version alone takes no time
    from loom.render.output import print_json

    print_json(Version(loom=__version__, python=sys.version.split()[0]))
