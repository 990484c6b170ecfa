"""Secrets: references in, values out, one module per kind of store; and the masker that keeps values out of all output."""

from typing import TYPE_CHECKING

from loom.util.lazy import names_of

if TYPE_CHECKING:
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

__getattr__ = names_of(
    __name__,
    {
        "base": "SecretProvider Surroundings",
        "lookup": "Missing Resolution check_reference resolve",
        "trace": "Trace check_debug_trace traces",
    },
)
