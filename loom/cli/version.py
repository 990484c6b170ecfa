"""`loom version`."""

from loom import __version__


def version() -> None:
    """Print loom's version."""
    print(f"loom {__version__}")
