"""`keepass://alias#group/entry:field`: a KeePass database, KDBX 3 or 4."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from msgspec import Struct

from loom.config import KeepassDatabase
from loom.secrets.base import Surroundings, not_found, unavailable
from loom.util.untrusted_files import open_judged

if TYPE_CHECKING:
    from pathlib import Path

_ATTACHMENT = "attachment/"
_FIELDS = {"password": "password", "username": "username", "url": "url", "notes": "notes", "title": "title"}


class _Address(Struct, frozen=True):
    alias: str
    path: tuple[str, ...]
    field: str

    def __str__(self) -> str:
        return "/".join(self.path)


def _address(reference: str) -> _Address | None:
    """Parse an address; `/` and `:` inside names are written `%2F` and `%3A`."""
    alias, hash_sign, place = reference.partition("#")
    entry, colon, field = place.partition(":")
    path = tuple(unquote(part) for part in entry.split("/"))
    if not alias or not hash_sign or not all(path) or (colon and not field):
        return None
    return _Address(unquote(alias), path, unquote(field) if colon else "password")


class Keepass:
    """Keeps databases open: the key derivation takes a second by design."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[Path, Any] = {}

    def check(self, reference: str) -> str | None:
        return None if _address(reference) else "expected keepass://alias#group/entry:field"

    def read(self, reference: str, around: Surroundings) -> bytes:
        address = _address(reference)
        assert address is not None, "resolve checks references before it reads them"
        with self._lock:
            database = self._database(address.alias, around)
        entry = self._entry(database, address)
        value = _value(entry, address.field)
        if not value:
            raise not_found(f"the entry {address} has no field {address.field!r}, or it is empty", _fields_hint(entry))
        return value

    def _database(self, alias: str, around: Surroundings) -> Any:
        configured = around.config.keepass.get(alias)
        if configured is None:
            known = ", ".join(sorted(around.config.keepass)) or "none"
            raise unavailable(
                f"no KeePass database has the alias {alias!r} (configured: {known})",
                f"Name it in ~/.config/loom/config.yml:\n"
                f"keepass:\n  {alias}:\n    path: ~/passwords.kdbx\n    password: keyring://loom/{alias}",
            )
        if configured.path not in self._open:
            self._open[configured.path] = _opened(alias, configured, around)
        return self._open[configured.path]

    def _entry(self, database: Any, address: _Address) -> Any:
        found = database.find_entries(path=list(address.path))
        if found is None:
            raise not_found(
                f"the database {address.alias!r} has no entry {address}",
                "Include its groups in the path, and write `%2F` for a slash in a name.",
            )
        return found


def _opened(alias: str, configured: KeepassDatabase, around: Surroundings) -> Any:
    try:
        from pykeepass import PyKeePass
        from pykeepass.exceptions import CredentialsError
    except ImportError as error:
        raise unavailable("the Python package pykeepass is not installed", "pip install pykeepass") from error
    path = configured.path
    if not path.is_file():
        raise unavailable(f"the KeePass database {alias!r}: no such file: {path}")
    password = None
    if configured.password is not None:
        if configured.password.startswith("keepass://"):
            raise unavailable(f"the KeePass database {alias!r} can't take its password from a KeePass database")
        password = around.read(configured.password).decode("utf-8", "replace").rstrip("\r\n")
    try:
        with ExitStack() as stack:
            database, key = (
                None if file is None else stack.enter_context(open_judged(str(file)))
                for file in (path, configured.key_file)
            )
            return PyKeePass(database, password=password, keyfile=key)
    except CredentialsError as error:
        how = (
            "the password or the key file is wrong"
            if password is not None
            else "it needs a password, and the configuration has none"
        )
        raise unavailable(
            f"the KeePass database {alias!r} ({path}) can't be opened: {how}",
            f"keepass.{alias}.password in loom's configuration takes a reference to the password.",
        ) from error
    except OSError as error:
        raise unavailable(f"the KeePass database {alias!r} can't be read: {error}") from error
    except Exception as error:  # pykeepass raises errors of its binary parser for other files
        why = f"{path} can't be read as a KeePass database ({type(error).__name__})"
        raise unavailable(why, "Is it a .kdbx file (KDBX 3 or 4), and whole?") from error


def _value(entry: Any, field: str) -> bytes | None:
    if field.startswith(_ATTACHMENT):
        name = field.removeprefix(_ATTACHMENT)
        return next((bytes(item.data) for item in entry.attachments if item.filename == name), None)
    known = _FIELDS.get(field.lower())
    text = getattr(entry, known) if known else entry.get_custom_property(field)
    return text.encode() if text else None


def _fields_hint(entry: Any) -> str:
    custom = sorted(entry.custom_properties)
    attached = sorted(_ATTACHMENT + str(item.filename) for item in entry.attachments)
    return f"Available fields: {', '.join([*_FIELDS, *custom, *attached])}."
