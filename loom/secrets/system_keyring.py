"""`keyring://service/user`: the desktop keyring (Secret Service, KWallet, macOS Keychain, ...) through `keyring`."""

from __future__ import annotations

from urllib.parse import unquote

from loom.secrets.base import Surroundings, not_found, unavailable
from loom.util.within import within

_ANSWER_S = 120.0
"""Leaves a person time to unlock it."""


class SystemKeyring:
    def check(self, reference: str) -> str | None:
        service, _, user = reference.rpartition("/")
        return None if service and user else "expected keyring://service/user"

    def read(self, reference: str, around: Surroundings) -> bytes:
        try:
            import keyring
            from keyring.errors import KeyringError, NoKeyringError
        except ImportError as error:
            raise unavailable("the Python package keyring is not installed", "pip install keyring") from error
        service, _, user = (unquote(part) for part in reference.rpartition("/"))
        try:
            value = within(_ANSWER_S, lambda: keyring.get_password(service, user))
        except TimeoutError as error:
            raise unavailable(
                f"the keyring did not answer within {_ANSWER_S:.0f} s",
                "Unlock it first: it may be asking for its password.",
            ) from error
        except NoKeyringError as error:
            raise unavailable(
                "no usable keyring on this machine (no desktop session?)",
                "Unlock or start one, or keep the secret elsewhere: env://, file://, keepass://.",
            ) from error
        except (KeyringError, OSError) as error:
            raise unavailable(f"the keyring can't be read: {str(error) or type(error).__name__}") from error
        if not value:
            raise not_found(
                f"the keyring has no entry for service {service!r}, user {user!r}",
                f"`keyring set {service} {user}` creates one.",
            )
        return value.encode()
