"""Permissions that the user gave each repository: decisions on requests (`loom.plan.permissions`) in the user's state directory.

One file, readable and writable by the user alone. Decisions belong to a checkout's real path and its remote `origin`; each
is the hash of one request, so that a changed request is a new one. Nothing in the repository decides where decisions are
read from. A workspace has the trust of the checkout that the user's own record names for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from loom.commands.project import CheckoutRoot
from loom.commands.project.checkout import origin_of
from loom.errors import InfrastructureError, LoomError, SnapshotError
from loom.plan.permissions import PermissionRequest
from loom.record.store import Store
from loom.snapshot import git
from loom.snapshot.manifest import read_manifest
from loom.util import atomic, processes, typed
from loom.util.paths import is_of_job, run_of_workspace, workspace_beside
from loom.util.private import make_private
from loom.util.untrusted_files import open_regular
from loom.values import Environ, Immutable

_MAX_BYTES = 16 << 20


class _Decisions(Immutable):
    """The user's decisions for one checkout."""

    root: str
    origin: str | None
    allowed: dict[str, str]
    """The description of each request, by id."""


class _File(Immutable):
    schema_version: str
    checkouts: dict[str, _Decisions]
    """By the digest of the checkout's path."""


_SCHEMA = "loom.trust.v1"


class Trust:
    """The decisions for the repository at `root`. `state_dir` is the user's own, never the project's."""

    def __init__(self, state_dir: Path, root: Path, environ: Environ) -> None:
        self.root = checkout_of(root, state_dir)
        self.origin = _origin_of(self.root, environ)
        self._open(state_dir, hashlib.sha256(os.fsencode(self.root)).hexdigest()[:40])

    def _open(self, state_dir: Path, key: str) -> None:
        self.path = state_dir / "trust.json"
        self._key = key
        self._allowed = self._permissions(self._read())

    def allows(self, request: PermissionRequest) -> bool:
        return request.id in self._allowed

    def allow(self, requests: Iterable[PermissionRequest]) -> None:
        """Record these in addition to earlier ones. InfrastructureError on failure."""
        self._change({request.id: str(request) for request in requests})

    def revoke(self) -> int:
        """Delete all decisions; return their number. InfrastructureError on failure."""
        count = len(self._allowed)
        self._change(None)
        return count

    def _change(self, more: dict[str, str] | None) -> None:
        try:
            make_private(self.path.parent)
            lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                processes.lock(lock, fcntl.LOCK_EX)
                checkouts = self._read()
                self._allowed = {} if more is None else self._permissions(checkouts) | more
                checkouts.pop(self._key, None)
                if self._allowed:
                    root = os.fsencode(self.root).decode(errors="backslashreplace")
                    checkouts[self._key] = _Decisions(root=root, origin=self.origin, allowed=self._allowed)
                shape = _File(schema_version=_SCHEMA, checkouts=checkouts)
                atomic.write(self.path, msgspec.json.encode(shape), mode=0o600)
            finally:
                os.close(lock)
        except OSError as error:
            raise InfrastructureError(
                f"your decision can't be kept at {self.path}: {error.strerror or error}",
                hint="free some space or give permission there, or name another directory with LOOM_STATE_DIR",
                code="TRUST_UNWRITABLE",
            ) from error

    def _permissions(self, checkouts: Mapping[str, _Decisions]) -> dict[str, str]:
        """Return the permissions of this checkout; none if its `origin` has changed."""
        found = checkouts.get(self._key)
        return dict(found.allowed) if found is not None and found.origin == self.origin else {}

    def _read(self) -> dict[str, _Decisions]:
        """Read the file; empty if it is missing, damaged or not private to this user."""
        try:
            with open_regular(self.path) as file:
                status = os.fstat(file.fileno())
                is_private = status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
                if not is_private or status.st_size > _MAX_BYTES:
                    return {}
                found = typed.decode(file.read(), _File)
        except (OSError, ValueError, RecursionError):
            return {}
        return found.checkouts if found.schema_version == _SCHEMA else {}


class ServerTrust(Trust):
    """The servers that the user's tokens may go to, whatever the checkout."""

    def __init__(self, state_dir: Path) -> None:
        self.root, self.origin = Path("every checkout"), None
        self._open(state_dir, "servers")


def checkout_of(root: Path, state_dir: Path) -> Path:
    """Return the real path of a checkout; for a path in a workspace, the path in the recorded checkout."""
    real = Path(os.path.realpath(root))
    for _ in range(10):  # a run inside a workspace has its own workspace
        found = next(((directory, ws) for directory in (real, *real.parents) if (ws := _workspace_of(directory))), None)
        source = _source_of(found[1], state_dir) if found is not None else None
        if found is None or source is None:
            break
        real = Path(os.path.realpath(source / real.relative_to(found[0])))
    return real


def _workspace_of(directory: Path) -> Path | None:
    """Return the workspace with this name, or of the job with files at `directory`."""
    workspace = (
        workspace_beside(directory.parent.parent)
        if directory.name == "workspace" and is_of_job(directory)
        else directory
    )
    return workspace if run_of_workspace(workspace.name) else None


def _source_of(workspace: Path, state_dir: Path) -> Path | None:
    """Return the checkout of a workspace from the user's record; the workspace itself is untrusted."""
    store = Store(state_dir)
    if (run := store.run_in(workspace)) is not None:
        root = run.identity.get("repo_root")
        return Path(root) if isinstance(root, str) and root else None
    kept = store.manifest_of(workspace)
    try:
        return Path(read_manifest(workspace, kept).source_root) if kept is not None else None
    except SnapshotError:
        return None


def _origin_of(root: Path, environ: Environ) -> str | None:
    if not root.is_dir():
        return None
    try:
        found = origin_of(CheckoutRoot(root=root, environ=git.elsewhere(environ)))
    except LoomError:
        return None
    return str(found) if found else None
