"""The stores that loom knows: environment variables, files, the desktop's keyring, KeePass databases, 1Password."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from loom.config import KeepassDatabase
from loom.secrets.base import Surroundings, not_found, unavailable
from loom.util.masking import LONGEST
from loom.util.untrusted_files import open_judged
from loom.util.within import within


class EnvironmentVariables:
    """`env://NAME`."""

    def check(self, reference: str) -> str | None:
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", reference):
            return None
        return "expected env://NAME, the name of a variable"

    def read(self, reference: str, around: Surroundings) -> bytes:
        value = around.environ.get(reference)
        if value is None:
            raise not_found(
                f"the variable {reference} is not set in loom's environment",
                f"Set it and run again: `{reference}=... loom run`, or `export {reference}` in your shell.",
            )
        if not value:
            raise not_found(f"the variable {reference} is set, but empty")
        return os.fsencode(value)


class FileSecrets:
    """`file://path`: relative to the repository, in the home directory (`~/`), or absolute."""

    def check(self, reference: str) -> str | None:
        if not reference or reference.endswith("/") or "\0" in reference:
            return "expected file://path/in/the/repository, file://~/path or file:///absolute/path"
        if reference.startswith("~") and not reference.startswith("~/"):
            return "only your own home directory is supported: file://~/path"
        return None

    def read(self, reference: str, around: Surroundings) -> bytes:
        path = around.root / reference
        if reference.startswith("~/"):
            if not (home := around.environ.get("HOME")):
                raise unavailable(
                    "HOME is not set, so ~ can't be resolved", "Write the path in full: file:///absolute/path"
                )
            path = Path(home) / reference[2:]
        try:
            real = os.path.realpath(path)
            allowed = around.judged.get(f"file://{reference}", real)
            if real != allowed:
                raise unavailable(
                    f"{path} led to {allowed} when this run was allowed to read it, and leads to {real} now",
                    "Run again: `loom trust` shows what is new.",
                )
            with open_judged(allowed) as file:
                if (size := os.fstat(file.fileno()).st_size) > LONGEST:
                    raise unavailable(f"{path} has {size} bytes; the limit for a secret is {LONGEST}")
                value = file.read(LONGEST + 1)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise not_found(f"there is no file {path}") from error
        except OSError as error:
            if error.errno in (errno.EISDIR, errno.EINVAL):
                raise not_found(f"{path} is not a file") from error
            raise unavailable(f"{path} can't be read: {error.strerror}") from error
        if not value.strip():
            raise not_found(f"{path} is empty")
        return value


_KEYRING_S = 120.0
"""Leaves a person time to unlock it."""


class SystemKeyring:
    """`keyring://service/user`: the desktop's (Secret Service, KWallet, macOS Keychain, ...), through `keyring`."""

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
            value = within(_KEYRING_S, lambda: keyring.get_password(service, user))
        except TimeoutError as error:
            raise unavailable(
                f"the keyring did not answer within {_KEYRING_S:.0f} s",
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


class Keepass:
    """`keepass://alias#group/entry:field`: KDBX 3 or 4. Keeps databases open: the key derivation takes a second by design."""

    def __init__(self) -> None:
        self._open: dict[Path, Any] = {}

    def check(self, reference: str) -> str | None:
        alias, _, item = reference.partition("#")
        entry, colon, field = item.partition(":")
        fine = alias and all(entry.split("/")) and (field or not colon)
        return None if fine else "expected keepass://alias#group/entry:field"

    def read(self, reference: str, around: Surroundings) -> bytes:
        alias, _, item = reference.partition("#")
        entry, _, field = item.partition(":")
        # In names, `/` and `:` are written `%2F` and `%3A`.
        path, field = [unquote(part) for part in entry.split("/")], unquote(field) or "password"
        database = self._database(unquote(alias), around)
        found = database.find_entries(path=path)
        if found is None:
            raise not_found(
                f"the database {unquote(alias)!r} has no entry {'/'.join(path)}",
                "Include its groups in the path, and write `%2F` for a slash in a name.",
            )
        own = field.lower() in ("password", "username", "url", "notes", "title")
        value = getattr(found, field.lower()) if own else found.get_custom_property(field)
        if not value:
            raise not_found(f"the entry {'/'.join(path)} has no field {field!r}, or it is empty")
        return str(value).encode()

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
            self._open[configured.path] = _opened(
                f"the KeePass database {alias!r} ({configured.path})", configured, around
            )
        return self._open[configured.path]


def _opened(named: str, configured: KeepassDatabase, around: Surroundings) -> Any:
    try:
        from pykeepass import PyKeePass
        from pykeepass.exceptions import CredentialsError
    except ImportError as error:
        raise unavailable("the Python package pykeepass is not installed", "pip install pykeepass") from error
    password = None
    if configured.password is not None:
        if configured.password.startswith("keepass://"):
            raise unavailable(f"{named} can't take its password from a KeePass database")
        password = around.read(configured.password).decode("utf-8", "replace").rstrip("\r\n")
    try:
        with ExitStack() as stack:
            database, key = (
                None if file is None else stack.enter_context(open_judged(str(file)))
                for file in (configured.path, configured.key_file)
            )
            return PyKeePass(database, password=password, keyfile=key)
    except CredentialsError as error:
        wrong = "the password or the key file is wrong" if password is not None else "the configuration has no password"
        hint = "keepass.ALIAS.password in loom's configuration takes a reference to the password."
        raise unavailable(f"{named} can't be opened: {wrong}", hint) from error
    except OSError as error:
        raise unavailable(f"{named} can't be read: {error.strerror}") from error
    except Exception as error:  # pykeepass raises errors of its binary parser for other files
        why = f"{named} can't be read as one ({type(error).__name__})"
        raise unavailable(why, "Is it a .kdbx file (KDBX 3 or 4), and whole?") from error


_OP_S = 60.0
_OP_HINT = "Run `op signin`, or set OP_SERVICE_ACCOUNT_TOKEN."
_OP_MISSING = re.compile(
    r"isn't an item|isn't a vault|isn't a field|no item|not found|could not find|couldn't find|does not have a field|"
    r"doesn't exist|no (?:matching|such)|no vault|no section",
    re.IGNORECASE,
)


class OnePassword:
    """`op://vault/item/[section/]field`: 1Password, through the `op` command."""

    def check(self, reference: str) -> str | None:
        parts = reference.partition("?")[0].split("/")
        if len(parts) in (3, 4) and all(parts):
            return None
        return "expected op://vault/item/field or op://vault/item/section/field"

    def read(self, reference: str, around: Surroundings) -> bytes:
        command = shutil.which("op", path=around.environ.get("PATH", ""))
        if command is None:
            raise unavailable("1Password can't be queried: the `op` command is not installed", _OP_HINT)
        try:
            done = subprocess.run(
                [command, "read", "--no-newline", f"op://{reference}"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=dict(around.environ),
                timeout=_OP_S,
                check=False,
            )
        except (subprocess.TimeoutExpired, OSError) as error:
            raise unavailable(f"1Password can't be queried: {error}", _OP_HINT) from error
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip() or f"`op read` exited with code {done.returncode}"
            said = re.sub(r"^\[ERROR\] [\d/]+ [\d:]+ ", "", said.splitlines()[-1])
            if _OP_MISSING.search(said):
                raise not_found(f"1Password has nothing at op://{reference}: {said}")
            raise unavailable(f"1Password can't be queried: {said}", _OP_HINT)
        if not done.stdout:
            raise not_found(f"the 1Password value at op://{reference} is empty")
        return done.stdout
