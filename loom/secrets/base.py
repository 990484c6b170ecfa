"""The promise of a secret provider, and the three ways it may fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from loom.config import Config
from loom.errors import SecretError

UNAVAILABLE = "SECRETS_PROVIDER_UNAVAILABLE"
INVALID = "SECRETS_REF_INVALID"
NOT_FOUND = "SECRETS_REF_NOT_FOUND"
REQUIRED_MISSING = "SECRETS_REQUIRED_MISSING"
UNSAFE_DEBUG_TRACE = "SECRETS_UNSAFE_DEBUG_TRACE"


class Surroundings(Struct, frozen=True, kw_only=True):
    """Everything a provider may look at; nothing else (not `os.environ`, not the working directory)."""

    environ: Mapping[str, str]
    root: Path
    """The repository that loom was started in, not its snapshot."""
    config: Config
    read: Callable[[str], bytes]
    """Another reference's value: what opens this store may itself be kept in another one."""


class SecretProvider(Protocol):
    """One kind of store, named by its references' scheme.

    Others can be added: an entry point in the group `loom.secret_providers`, named like the scheme, that loads to a
    callable without arguments which returns a provider.
    """

    def check(self, reference: str) -> str | None:
        """What is wrong with a reference (what follows `scheme://`), None when it is well-formed. Touches nothing."""
        ...

    def read(self, reference: str, around: Surroundings) -> bytes:
        """The value. Raises what `not_found` and `unavailable` return; never puts a value into a message."""
        ...


def not_found(message: str, hint: str | None = None) -> SecretError:
    """The store was there and has no such thing."""
    return SecretError(message, hint=hint, code=NOT_FOUND)


def unavailable(message: str, hint: str | None = None) -> SecretError:
    """The store could not be asked: not installed, not configured, locked, not allowed."""
    return SecretError(message, hint=hint, code=UNAVAILABLE)


def invalid(message: str, hint: str | None = None) -> SecretError:
    return SecretError(message, hint=hint, code=INVALID)
