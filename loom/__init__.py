"""Loom: run a repository's CI workflow on the developer's own machine, in the containers CI uses."""

__version__ = "0.1.0"
