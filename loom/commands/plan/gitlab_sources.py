"""Read the files outside the repository that a `.gitlab-ci.yml` includes: of clones, of a server's projects by git, of the web.

git fetches with the user's own credentials, from the server of this project's `origin` alone. A file of any other server is
fetched only after the user has allowed its address: a stranger's file would otherwise choose what this machine connects to.
What was fetched stays in the cache, for when its server does not answer.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from loom.addresses import Address
from loom.commands.plan.git_server import GitError, GitServer, succeeded
from loom.commands.project import Project, trusts_all
from loom.commands.project.checkout import origin_of
from loom.commands.project.trusting import decisions_of
from loom.commands.servers import ServerRefused, ServerUnavailable, place_of
from loom.errors import reason_of
from loom.plan.permissions import PermissionRequest
from loom.util import atomic
from loom.util.private import make_private
from loom.util.yaml_file import MAX_BYTES
from loom.workflow.sources import Component, NotFound, Tree, Unreachable

_REMOTE = re.compile(
    r"(?P<before>(?:[a-z+]+://)?(?:[^@/\s]+@)?(?P<host>[^:/\s]+)(?::[0-9]+)?[:/])(?P<path>.+?)(?P<git>\.git)?/?"
)
_VERSION = re.compile(r"v?([0-9]+)\.([0-9]+)\.([0-9]+)")
_PARTIAL = re.compile(r"[0-9]+(\.[0-9]+)?")


class Elsewhere:
    """`workflow.sources.Sources` of this machine."""

    def __init__(self, project: Project) -> None:
        self._checkout = project
        self.settings = project.config.gitlab
        self.cache = project.config.cache_dir / "gitlab"
        self.environ = project.environ
        origin = origin_of(project)
        self._origin = origin.revealed() if origin else ""
        self._remote = _REMOTE.fullmatch(self._origin)
        self._host = self._remote["host"] if self._remote else None
        self._git = GitServer(project, unanswered=project.unanswered)

    def project(self, path: str, ref: str | None) -> Tree:
        clone = self.settings.projects.get(path)
        if clone is None:
            return self._fetched(path, ref or "HEAD")
        for name in (ref or "HEAD", f"origin/{ref}"):
            commit = self._git.asked(clone, "rev-parse", "-q", "--verify", "--end-of-options", f"{name}^{{commit}}")
            if commit is not None:
                return _Commit(self._git, clone, path, ref, commit.decode().strip())
        raise NotFound(f"the clone of {path} at {clone} has no {ref or 'commit'}; fetch it there")

    def component(self, host: str, path: str, version: str) -> Component:
        if self._host is not None and host != self._host:
            raise NotFound(
                f"components come from the server of this project, {self._host}, not from {host}, as in GitLab"
            )
        tag = self._tag(path, version) if version == "~latest" or _PARTIAL.fullmatch(version) else None
        tree = self.project(path, tag or version)
        return Component(tree=tree, version=tag or (version if _VERSION.fullmatch(version) else ""))

    def remote(self, url: str) -> bytes:
        address = Address(url)
        if not url.startswith(("https://", "http://")):
            raise NotFound(f"{address}: expected an address that begins with https://")
        if _server_of(url) != self._server():
            self._check_allowed(address)
        if "@" in urlsplit(url).netloc:
            raise NotFound(
                f"{address} was written with a user or a password, which `include` does not send; leave it out"
            )
        from loom.commands.servers import web  # its library takes 50 ms

        kept = self._kept("remote", url)
        try:
            with web.errors(str(address)):
                data = web.session_of(web.Door(url, largest=MAX_BYTES)).get(url).content
        except ServerRefused as error:
            advice = "" if error.status else "; include that address instead"
            raise NotFound(f"{error.message}{advice}") from error
        except ServerUnavailable as error:
            if not kept.is_file():
                advice = f"{error.hint}; " if error.hint else ""
                raise Unreachable(f"{error.message}; {advice}with a connection, loom keeps a copy for later") from error
            self._checkout.unanswered.append(str(address))
            return kept.read_bytes()
        self._keep(kept, data)
        return data

    def _check_allowed(self, url: Address) -> None:
        which = hashlib.sha256(url.revealed().encode()).hexdigest()[:12]
        request = PermissionRequest(
            kind="include",
            subject=f"{url} (with the token {which})" if url.has_credential else str(url),
            gives="loom fetches this address and reads the file there",
        )
        self._checkout.includes.append(request)
        if trusts_all(self.environ, self._checkout.trusting):
            return
        if not decisions_of(self._checkout).allows(request):
            whose = (
                f"the server of this repository, {self._host}" if self._host else "a server of this repository's own"
            )
            raise NotFound(
                f"{url} is not on {whose}, so loom does not fetch it before you allow it: `loom trust`; or, for one time, "
                "LOOM_TRUST=1"
            )

    def template(self, name: str) -> bytes:
        folder = self.settings.templates
        if folder is None:
            raise NotFound(
                f"{name} is one of GitLab's templates; name a folder with a copy of them in ~/.config/loom/config.yml "
                "(gitlab: {templates: FOLDER}; they are in lib/gitlab/ci/templates of GitLab's source)"
            )
        path = Path(os.path.normpath(folder / name))
        if not path.is_relative_to(folder):
            raise NotFound(f"{name} is outside of {folder}")
        try:
            return path.read_bytes()
        except OSError as error:
            raise NotFound(f"{path} can't be read: {reason_of(error)}") from error

    def _server(self) -> tuple[str, str, int | None] | None:
        """Return the server of `origin` as `_server_of` does; over SSH, the one that answers HTTPS there."""
        if self._origin.startswith(("https://", "http://")):
            return _server_of(self._origin)
        return ("https", self._host.lower(), 443) if self._host else None

    def url_of(self, path: str) -> Address:
        """Return the URL of a project for git: on the server of `origin`."""
        if (found := self._remote) is None:
            raise NotFound(
                f"{path} is a project of the server; this repository has no `origin` there: {self._advice(path)}"
            )
        return Address(f"{found['before']}{path}{found['git'] or ''}")

    def _advice(self, path: str) -> str:
        return f"name a clone in ~/.config/loom/config.yml (gitlab: {{projects: {{{path}: FOLDER}}}})"

    def _not_fetched(self, error: GitError, path: str) -> NotFound:
        if why := self._git.unreachable(self._host or "the server of `origin`", error):
            return Unreachable(f"{why}, or {self._advice(path)}")
        return NotFound(f"{error}; {self._advice(path)}")

    def _fetched(self, path: str, ref: str) -> Tree:
        url = self.url_of(path)
        server = hashlib.sha256(str(url).encode()).hexdigest()[:12]
        store = self.cache / f"{re.sub(r'[^a-zA-Z0-9_.-]+', '_', path)}-{server}"
        try:
            commit = self._git.fetched(store, url, ref)
        except GitError as error:
            raise self._not_fetched(error, path) from error
        return _Commit(self._git, store, path, ref, commit)

    def _tag(self, path: str, version: str) -> str | None:
        """Return the newest tag of a version such as `1`, `1.2` or `~latest`; None if none fits a `1.2`, which may be a tag."""
        clone = self.settings.projects.get(path)
        try:
            listed = self._git.told(clone, "tag", "--list") if clone is not None else self._tags(path)
        except GitError as error:
            raise NotFound(str(error)) from error
        names = [line.rpartition("/")[2] for line in listed.decode("utf-8", "replace").split()]
        versions = {tuple(map(int, found.groups())): name for name in names if (found := _VERSION.fullmatch(name))}
        wanted = () if version == "~latest" else tuple(map(int, version.split(".")))
        fitting = [numbers for numbers in versions if numbers[: len(wanted)] == wanted]
        if not fitting and not wanted:
            raise NotFound(f"{path} has no release: no tag is a version such as 1.0.0")
        return versions[max(fitting)] if fitting else None

    def _tags(self, path: str) -> bytes:
        """List the tags of a project on its server; if it does not answer, those of the last time."""
        url = self.url_of(path)
        kept = self._kept("tags", str(url))
        try:
            asked = self._git.at_server(None, "ls-remote", "--tags", "--refs", "--end-of-options", url)
            listed = succeeded("ls-remote", asked)
        except GitError as error:
            if kept.is_file():
                self._checkout.unanswered.append(f"{url} (tags)")
                return kept.read_bytes()
            raise self._not_fetched(error, path) from error
        self._keep(kept, listed)
        return listed

    def _keep(self, path: Path, data: bytes) -> None:
        """Keep a copy of what was fetched; nothing happens where that is impossible."""
        with suppress(OSError):
            make_private(self.cache.parent)
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            atomic.write(path, data, mode=0o600)

    def _kept(self, kind: str, url: str) -> Path:
        return self.cache / kind / hashlib.sha256(url.encode()).hexdigest()


def _server_of(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port. Raises NotFound for an invalid port."""
    try:
        return place_of(url)
    except ServerRefused as error:
        raise NotFound(error.message) from error


class _Commit:
    """The files of one commit in a repository of this machine."""

    def __init__(self, git: GitServer, directory: Path, path: str, ref: str | None, sha: str) -> None:
        self.label = f"{path}@{ref}:" if ref else f"{path}:"
        self.project = path
        self.sha = sha
        self._git = git
        self._directory = directory

    def read(self, path: str) -> bytes:
        data = self._git.asked(self._directory, "cat-file", "blob", f"{self.sha}:{path}")
        if data is None:
            raise NotFound(f"{self.label}{path}: there is no such file")
        return data

    def paths(self) -> Iterable[str]:
        listed = self._git.asked(self._directory, "ls-tree", "-r", "-z", "--name-only", self.sha)
        names: Sequence[bytes] = (listed or b"").split(b"\0")
        return [os.fsdecode(name) for name in names if name]
