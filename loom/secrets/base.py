"""The interface of a secret provider, and its three kinds of failure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from loom.config import Config
from loom.errors import SecretError
from loom.values import Environ, Immutable

UNAVAILABLE = "SECRETS_PROVIDER_UNAVAILABLE"
INVALID = "SECRETS_REF_INVALID"
NOT_FOUND = "SECRETS_REF_NOT_FOUND"
REQUIRED_MISSING = "SECRETS_REQUIRED_MISSING"


class Secret(Immutable):
    """A secret that a job names."""

    name: str
    ref: str
    file: bool = True
    required: bool = True


class Surroundings(Immutable):
    """The only inputs of a provider (not `os.environ`, not the working directory)."""

    environ: Environ
    root: Path
    """The user's repository, not its snapshot."""
    config: Config
    judged: Mapping[str, str]
    """The real path that each `file://` reference led to when the user's trust was asked for."""
    read: Callable[[str], bytes]
    """Resolve another reference: the key of a store may itself be kept in another store."""


class SecretProvider(Protocol):
    """One kind of store, selected by the scheme of a reference.

    Packages can add providers by an entry point in the group `loom.secret_providers`: its name is the scheme, it loads
    a callable without arguments that returns a provider.
    """

    def check(self, reference: str) -> str | None:
        """Check the part of a reference after `scheme://`; return the problem, or None. Performs no I/O."""

    def read(self, reference: str, around: Surroundings) -> bytes:
        """Return the value. Raises `not_found` or `unavailable`; messages never contain a value."""


def not_found(message: str, hint: str | None = None) -> SecretError:
    """Return the error for a store without this entry."""
    return SecretError(message, hint=hint, code=NOT_FOUND)


def unavailable(message: str, hint: str | None = None) -> SecretError:
    """Return the error for a store that can't be queried: not installed, not configured, locked or not permitted."""
    return SecretError(message, hint=hint, code=UNAVAILABLE)


def invalid(message: str, hint: str | None = None) -> SecretError:
    return SecretError(message, hint=hint, code=INVALID)
