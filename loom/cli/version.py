"""`loom version`."""

from loom import __version__
from loom.cli import options


def version(as_json: options.AsJson = False) -> None:
    """Print loom's version."""
    if not as_json:
        print(f"loom {__version__}")
        return
    from loom.commands.version import print_document  # late: the text alone needs nothing

    print_document()
