"""Copies of what a command replaces, as objects of the checkout's repository."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from loom.commands.inside.saved import MOST_BYTES
from loom.commands.project import CheckoutRoot
from loom.commands.project.checkout import git
from loom.errors import RequestError
from loom.snapshot import Content, readable
from loom.snapshot.repository import find
from loom.util.units import rough_size
from loom.values import Environ


def keep_copies(root: Path, environ: Environ, contents: Iterable[tuple[str, Content]]) -> dict[str, str]:
    """Write each content that HEAD does not have at its path as a blob; return the blobs' ids by path.

    RequestError, before anything is replaced, for what can't be kept.
    """
    at = CheckoutRoot(root=root, environ=environ)
    listed = git(at, "ls-tree", "-r", "-z", "--full-tree", "HEAD") or b""
    entries = (entry.partition(b"\t") for entry in listed.split(b"\0") if entry)
    committed = {(path, facts.split()[2]) for facts, _, path in entries}
    kept, total = dict[str, str](), 0
    for path, (_, data) in contents:
        total += len(data)
        if total > MOST_BYTES:
            raise RequestError(
                f"the files that give way have more than {rough_size(MOST_BYTES)}, up to which loom keeps copies of them",
                hint=f"nothing was replaced; move {readable(path)} and others away yourself",
            )
        answer = git(at, "hash-object", "-w", "--stdin", given=data)
        if answer is None:
            raise RequestError(
                f"git can't keep a copy of {readable(path)} in the repository of {root}: nothing was replaced",
                hint="see what `git hash-object -w FILE` says there",
            )
        sha = answer.strip()
        if (os.fsencode(path), sha) not in committed:
            kept[path] = sha.decode()
    _give_to_owner(root, environ, kept.values())
    return kept


def command_for(copy: str) -> str:
    """Return the command that prints a copy."""
    return f"git cat-file blob {copy}"


def _give_to_owner(root: Path, environ: Environ, copies: Iterable[str]) -> None:
    """Let the objects belong to the repository's owner, who could not add others beside those of root."""
    repository = find(root, environ)
    if os.geteuid() != 0 or repository is None:
        return
    store = repository.common_dir / "objects"
    owner = store.stat()
    for copy in copies:
        for path in (store / copy[:2], store / copy[:2] / copy[2:]):
            with suppress(FileNotFoundError):  # it is in a pack
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
