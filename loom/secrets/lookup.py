"""Look up the values of a job's secrets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType

from loom.config import Config
from loom.errors import SecretError
from loom.secrets.base import (
    INVALID,
    NOT_FOUND,
    REQUIRED_MISSING,
    Secret,
    SecretProvider,
    Surroundings,
    invalid,
    unavailable,
)
from loom.secrets.stores import EnvironmentVariables, FileSecrets, Keepass, OnePassword, SystemKeyring
from loom.util.units import meant
from loom.values import Environ

ENTRY_POINTS = "loom.secret_providers"

_BUILT_IN: Mapping[str, Callable[[], SecretProvider]] = {
    "env": EnvironmentVariables,
    "file": FileSecrets,
    "keyring": SystemKeyring,
    "keepass": Keepass,
    "op": OnePassword,
}


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """`values` by secret name, unmodified. Neither `repr` nor `str` shows a value."""

    values: Mapping[str, bytes] = field(repr=False)
    missing: Mapping[str, SecretError]
    """Why optional secrets are unavailable, by name; their variables stay unset."""


def check_reference(reference: str) -> str | None:
    """Check a reference without querying a store; return the problem, or None."""
    try:
        scheme, rest = _split(reference)
        return _provider(scheme).check(rest)
    except SecretError as error:
        return error.message


def resolve(
    refs: Iterable[Secret],
    *,
    environ: Environ,
    root: Path,
    config: Config,
    judged: Mapping[str, str] = MappingProxyType({}),
) -> Resolution:
    """Look up the values of a job's secrets.

    All secrets are tried; one SecretError then reports every failure: SECRETS_REF_INVALID for a malformed reference
    (required or not), SECRETS_REQUIRED_MISSING for a required secret that its store lacks, SECRETS_PROVIDER_UNAVAILABLE
    for a required secret of an unavailable store.
    """
    providers: dict[str, SecretProvider] = {}

    def read(reference: str) -> bytes:
        scheme, rest = _split(reference)
        if scheme not in providers:
            providers[scheme] = _provider(scheme)
        wrong = providers[scheme].check(rest)
        if wrong is not None:
            raise invalid(f"its reference is malformed: {wrong}")
        return providers[scheme].read(rest, around)

    around = Surroundings(environ=environ, root=root, config=config, judged=judged, read=read)
    values: dict[str, bytes] = {}
    missing: dict[str, SecretError] = {}
    failed: list[tuple[Secret, SecretError]] = []
    for secret in refs:
        try:
            values[secret.name] = read(secret.ref)
        except SecretError as error:
            if secret.required or error.code == INVALID:
                failed.append((secret, error))
            else:
                missing[secret.name] = error
    if failed:
        raise _combined(failed)
    return Resolution(values=values, missing=missing)


def _split(reference: str) -> tuple[str, str]:
    scheme, separator, rest = reference.partition("://")
    if not separator or not scheme:
        raise invalid(
            "its reference is malformed: expected scheme://...",
            # Do not repeat the reference: it may be the value itself.
            "Never write a secret's value into the workflow; write a reference to its store: env://NAME, file://path, "
            "keyring://service/user, keepass://alias#entry:field, op://vault/item/field.",
        )
    return scheme, rest


def _provider(scheme: str) -> SecretProvider:
    if scheme in _BUILT_IN:
        return _BUILT_IN[scheme]()
    for point in entry_points(group=ENTRY_POINTS, name=scheme):
        try:
            provider: SecretProvider = point.load()()
        except Exception as error:  # third-party code may raise anything
            raise unavailable(
                f"the provider for {scheme}:// ({point.value}) can't be loaded: {type(error).__name__}: {error}"
            ) from error
        return provider
    known = sorted({*_BUILT_IN, *(point.name for point in entry_points(group=ENTRY_POINTS))})
    close = meant(scheme, known).replace("?", "://?")
    raise unavailable(
        f"no provider for {scheme}:// is installed{close} (installed: {', '.join(known)})",
        f"Packages add providers by the entry point group {ENTRY_POINTS}.",
    )


def _combined(failed: list[tuple[Secret, SecretError]]) -> SecretError:
    """Combine all failures; the code is the first one's, with SECRETS_REQUIRED_MISSING for a missing required secret."""
    codes = [REQUIRED_MISSING if error.code == NOT_FOUND else error.code for _, error in failed]
    # With the code in the text: the record keeps messages, and codes may differ per secret.
    lines = [
        f"secret {secret.name}: {error.message} ({code})" for (secret, error), code in zip(failed, codes, strict=True)
    ]
    hints = dict.fromkeys(error.hint for _, error in failed if error.hint)
    if any(error.code == NOT_FOUND for _, error in failed):
        hints["If the job works without it, set `required: false`."] = None
    return SecretError("\n".join(lines), hint="\n".join(hints) or None, code=codes[0])
