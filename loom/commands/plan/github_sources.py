"""The repositories of actions and of called workflows: by git from `github.server`, kept by their commits.

A ref is asked for once a day, by each gate, and if `pull` is `always`; `.loom/actions.lock` says which commit it is. Where
nothing may be fetched (`pull: never`) or the server does not answer, what it was the last time counts. Nobody's credentials
are sent: a job can read what is fetched.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from loom.addresses import Address
from loom.commands.plan.git_server import GitError, GitServer
from loom.commands.project import Project
from loom.errors import RequestError
from loom.plan.model import Plan
from loom.storage.tar import DamagedArchive, read
from loom.storage.unpacking import UnsafeArchive, checked, unpack_items
from loom.util import atomic, jsons, typed
from loom.util.untrusted_files import open_inside
from loom.values import Immutable
from loom.workflow.sources import Fetched, NotFetched, Unreachable

LOCK_PATH = ".loom/actions.lock"
LOCK_SCHEMA = "loom.actions.lock.v1"
FRESH_S = 24 * 3600.0
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+")


class ActionsLock(Immutable, forbid_unknown_fields=True):
    """The content of the lock: commits by `owner/name@ref`."""

    schema_version: str = LOCK_SCHEMA
    actions: Mapping[str, str] = {}


def load_lock(root: Path) -> ActionsLock | None:
    """Return the lock of a project, if it has one. RequestError for an invalid one."""
    path = root / LOCK_PATH
    try:
        with open_inside(path, root) as file:
            found = typed.decode(file.read(), ActionsLock)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise RequestError(
            f"{path}: {error}",
            hint="Write it again with `loom images lock`, or restore the committed file.",
            code="ACTIONS_LOCK_INVALID",
        ) from error
    return found


class ActionRepositories:
    """`workflow.sources.Repositories` of this machine."""

    def __init__(self, project: Project, *, renewing: bool = False) -> None:
        """`renewing`: ask the server for each ref, whatever the lock and the configuration say."""
        self._server = project.config.github.server.rstrip("/")
        self._pull = "always" if renewing or project.renewing else project.config.pull
        self._frozen = project.config.frozen and not renewing
        of_server = hashlib.sha256(self._server.encode("utf-8", "surrogateescape")).hexdigest()[:12]
        self._cache = project.config.cache_dir / f"actions-{of_server}"
        self._git = GitServer(project, anonymous=True, unanswered=project.unanswered)
        self._unreachable = ""
        """Why the server can't be reached: it is not asked again."""
        self._lock = None if renewing else load_lock(project.root)

    def at(self, repository: str, ref: str) -> Fetched:
        name = f"{repository}@{ref}"
        if not _REPOSITORY.fullmatch(repository) or ".." in repository:
            raise NotFetched(f"{repository} is not the name of a repository (owner/name)")
        store = self._cache / f"{_flat(repository)}@git"
        locked = self._lock.actions.get(name) if self._lock is not None else None
        if locked is None and self._frozen:
            raise NotFetched(f"{name} is not in {LOCK_PATH}, and only locked actions run (frozen): `loom images lock`")
        try:
            commit = self._commit(store, repository, ref if locked is None else locked, name)
            return Fetched(commit=commit, directory=self._files(store, repository, commit))
        except (GitError, DamagedArchive, UnsafeArchive) as error:
            if "could not read Username" in str(error):  # what GitHub asks for also where nothing is
                why = f"{self._server} has no public repository {repository}"
                raise NotFetched(f"{why}; a private one can come from a mirror (`github: server`)") from error
            if isinstance(error, GitError) and (why := self._git.unreachable(self._server, error)):
                self._unreachable = f"{why}, or name a mirror in ~/.config/loom/config.yml (`github: {{server: URL}}`)"
                raise Unreachable(self._unreachable) from error
            raise NotFetched(str(error)) from error
        except OSError as error:
            raise NotFetched(f"{name} can't be kept in {self._cache}: {error.strerror or error}") from error

    def _commit(self, store: Path, repository: str, ref: str, name: str) -> str:
        kept = self._git.last(store, ref)
        never, always = self._pull == "never", self._pull == "always"
        if kept is not None and (never or (not always and self._git.age_s(store, ref) < FRESH_S)):
            return kept
        if never and not self._git.has(store, ref):
            raise NotFetched(f"{name} was not fetched yet, and `pull` is never; run it once without that")
        if self._unreachable:
            raise Unreachable(self._unreachable)
        return self._git.fetched(store, Address(f"{self._server}/{repository}"), ref)

    def _files(self, store: Path, repository: str, commit: str) -> Path:
        """Return the directory with the files of a commit, as the server's archive of it has them."""
        directory = self._cache / _flat(repository) / commit
        if directory.is_dir():
            os.utime(directory)  # for `loom clean`
            return directory
        archive = self._git.told(store, "archive", "--format=tar", commit)
        directory.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        unpacked = Path(tempfile.mkdtemp(dir=directory.parent))
        try:
            unpack_items(checked(read(io.BytesIO(archive))), unpacked)
            unpacked.chmod(0o755)
            with suppress(OSError):  # another loom was faster
                unpacked.rename(directory)
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)
        return directory


def _flat(repository: str) -> str:
    """Return the name as one of a directory; no repository has a `+` or an `@` in its own."""
    return repository.replace("/", "+")


def lock_actions(project: Project, plan: Plan) -> tuple[str, ...]:
    """Write the lock of a plan's actions, if it uses any; return the lines that changed. RequestError without a connection."""
    actions = [step.action for job in plan.jobs for step in job.steps if step.action]
    refs = sorted({(one.repository, one.ref) for one in actions if one.repository})
    before = load_lock(project.root)
    if not refs and before is None:
        return ()
    repositories = ActionRepositories(project, renewing=True)
    try:
        now = {f"{name}@{ref}": repositories.at(name, ref).commit for name, ref in refs}
    except NotFetched as error:
        raise RequestError(f"{LOCK_PATH} is not written: {error}", code="ACTIONS_LOCK_INVALID") from error
    was = before.actions if before is not None else {}
    changed = sorted(name for name in {*was, *now} if was.get(name) != now.get(name))
    if changed:
        path = project.root / LOCK_PATH
        path.parent.mkdir(exist_ok=True)
        atomic.write(path, jsons.encode_file({"schema_version": LOCK_SCHEMA, "actions": now}, sort=True))
    return tuple(f"{name}: {was.get(name) or 'new'} -> {now.get(name) or 'gone'}" for name in changed)
