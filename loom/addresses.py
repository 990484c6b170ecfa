"""Addresses that may hold a credential: a user and password before the host, a token in the query.

`Address` shows itself without them, in each form that text takes; `revealed` alone gives them, and `git_arguments` hands them to
git outside of its command line, which every user of this machine can read (`ps`).
"""

from __future__ import annotations

import re
from typing import NoReturn
from urllib.parse import unquote

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>[^\s'\"<>`]+)")
_USER = re.compile(r"[^/?#@]*(?:@[^/?#@]*)*@|[^/?#@:]*:(?![0-9]*[/?#])[^@]*@")
"""All before the last `@` of the host; the second form is a password with an unquoted slash, which no program accepts."""
_IN_QUERY = re.compile(
    r"(?P<name>[?&;#][^=&;#]*(?:token|secret|passw|pwd|key|sig|credential|auth)[^=&;#]*=)[^&;#]+", re.IGNORECASE
)
_OF_SSH = re.compile(r"(?:git\+)?ssh(?:\+git)?", re.IGNORECASE)


def hide_credentials(text: str) -> str:
    """Return a text with every address in it bare. The user of an ssh address stays, because it is no credential."""
    return _URL.sub(_bare, text) if "://" in text else text


def _bare(found: re.Match[str]) -> str:
    scheme, rest = found["scheme"], found["rest"]
    if user := _USER.match(rest):
        name = user[0][:-1].partition(":")[0]
        rest = rest[user.end() :]
        if name and _OF_SSH.fullmatch(scheme):
            rest = f"{name}@{rest}"
    return f"{scheme}://" + _IN_QUERY.sub(r"\g<name>...", rest)


_HELPER = '!f() { test "$1" != get || printf "username=%s\\npassword=%s\\n" "$LOOM_GIT_USER" "$LOOM_GIT_PASSWORD"; }; f'


class Address:
    """An address as somebody wrote it. Text of it, in any form, is without its credential."""

    __slots__ = ("_full",)

    def __init__(self, full: str) -> None:
        self._full = full

    def revealed(self) -> str:
        """Return all of it, for the program or server that it is meant for. A test lists the callers."""
        return self._full

    @property
    def has_credential(self) -> bool:
        return str(self) != self._full

    def git_arguments(self) -> tuple[str, list[tuple[str, str]], dict[str, str]]:
        """Return the argument for git, and the configuration and environment by which it finds the credential.

        All but the argument belongs into the environment, which only this user can read.
        """
        url = _URL.fullmatch(self._full)
        user = _USER.match(url["rest"]) if url and url["scheme"].lower() in ("http", "https") else None
        if url is None or user is None:
            return self._full, [], {}
        host = url["rest"][user.end() :]
        server = f"{url['scheme']}://{re.split('[/?#]', host, maxsplit=1)[0]}"
        name, given, password = (unquote(part) for part in user[0][:-1].partition(":"))
        bare = f"{url['scheme']}://{host}"
        if "\n" in name + password:
            return bare, [], {}
        if not given:
            return bare, [(f"credential.{server}.username", name)], {}
        key = f"credential.{server}.helper"
        return bare, [(key, ""), (key, _HELPER)], {"LOOM_GIT_USER": name, "LOOM_GIT_PASSWORD": password}

    def __str__(self) -> str:
        return hide_credentials(self._full)

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Address) and other._full == self._full

    def __hash__(self) -> int:
        return hash(self._full)

    def __reduce__(self) -> NoReturn:
        raise TypeError("an address that may hold a credential is not written anywhere")
