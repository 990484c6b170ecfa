"""Secrets: references in, values out, one module per kind of store."""

from loom.secrets.base import SecretProvider, Surroundings
from loom.secrets.lookup import Missing, Resolution, check_reference, resolve
from loom.secrets.trace import Trace, check_debug_trace, traces

__all__ = [
    "Missing",
    "Resolution",
    "SecretProvider",
    "Surroundings",
    "Trace",
    "check_debug_trace",
    "check_reference",
    "resolve",
    "traces",
]
