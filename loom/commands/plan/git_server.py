"""Fetch repositories of other servers: by the user's own credentials, into stores of its own in the cache.

Nothing of a repository's configuration counts that names a program or an address.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import re
import shutil
import time
from functools import cache
from itertools import product
from pathlib import Path

from loom.addresses import Address
from loom.commands.project import CheckoutRoot
from loom.errors import LoomError, SnapshotError
from loom.snapshot import git, repository
from loom.util import processes
from loom.util.private import make_private

_WAYS = re.compile(r"http\.(.*\.)?(proxy|proxyssl\w+|ssl(cainfo|capath|verify|version|backend)|version)")
"""The keys of git that lead to a server, and say nothing of who asks."""
_UNREACHABLE = re.compile(
    r"(?:Could not resolve (?:host|proxy)|Failed to connect|Connection (?:refused|timed out)|Operation timed out"
    r"|Network is unreachable|returned error: (?:429|5\d\d)|CONNECT (?:tunnel failed|aborted)"
    r"|(?P<certificate>(?:SSL|server) (?:certificate|verification))).*"
)
_HOST = re.compile(r"https://(?:[^@/\s']*@)?([^/\s']+)")
_PROXIES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


class GitError(Exception):
    """The words of git about a failure, for people."""


class GitServer:
    """Asks repositories of this machine, and servers, for a checkout."""

    def __init__(self, at: CheckoutRoot, *, anonymous: bool = False, unanswered: list[str] | None = None) -> None:
        """`anonymous`: use no credential of the user's for HTTP: a job could read what only the user may.

        `unanswered` gets what is old, as its server does not answer.
        """
        self._unanswered = [] if unanswered is None else unanswered
        self._at = at
        self._anonymous = anonymous

    def asked(self, directory: Path, *arguments: str) -> bytes | None:
        """Return git's output for a repository on this machine; None if git fails."""
        code, out, _ = self._run(directory, *arguments)
        return out if code == 0 else None

    def told(self, directory: Path, *arguments: str) -> bytes:
        """Return git's output for a repository on this machine. Raises GitError."""
        return succeeded(arguments[0], self._run(directory, *arguments))

    def unreachable(self, server: str, error: GitError) -> str:
        """Return why git can't reach a server, with the next move; empty for another error."""
        if (found := _UNREACHABLE.search(str(error))) is None:
            return ""
        proxy = next((name for name in _PROXIES if self._at.environ.get(name)), None)
        host = _HOST.search(str(error))
        if found["certificate"] and host is not None:
            advice = f"name a file with its authority: git config --global http.https://{host[1]}/.sslCAInfo FILE"
        elif proxy is not None:
            advice = f"check the connection, and the proxy in `{proxy}`"
        else:
            advice = "check the connection (proxy: git config --global http.proxy URL)"
        return f"{server} can't be reached: {found[0]}; {advice}"

    def last(self, store: Path, ref: str) -> str | None:
        """Return the commit that a ref was when it was last fetched into a store."""
        found = self.asked(store, "rev-parse", "--verify", "-q", f"{_last(ref)}^{{commit}}") if store.exists() else None
        return found.decode().strip() if found else None

    def age_s(self, store: Path, ref: str) -> float:
        """Return the time since a ref was fetched, in seconds; infinite if it never was."""
        try:
            return time.time() - (store / _last(ref)).stat().st_mtime
        except OSError:
            return math.inf

    def has(self, store: Path, commit: str) -> bool:
        """Return whether a store has this commit, by its full name."""
        return bool(_COMMIT.fullmatch(commit)) and self.asked(store, "cat-file", "-e", commit) is not None

    def fetched(self, store: Path, url: Address, ref: str) -> str:
        """Fetch a ref into a store; return its commit, or without an answer the last one fetched. Raises GitError."""
        if store.exists() and self.has(store, ref):
            return ref
        make_private(store.parent.parent)
        store.parent.mkdir(exist_ok=True, mode=0o700)
        with store.with_name(f"{store.name}.lock").open("wb") as lock:
            processes.lock(lock, fcntl.LOCK_EX, git.PATIENCE_S)  # one loom at a time fetches into a store
            if not store.exists():
                store.mkdir(mode=0o700)
                made = git.environment_for(self._at.environ, git_dir=store)
                succeeded("init", git.Running(("init", "--bare", "--quiet"), made, cwd=store).result(check=False))
            wanted = ("fetch", "--quiet", "--depth=1", "--no-tags", "--end-of-options", url, f"+{ref}:{_last(ref)}")
            code, _, said = self.at_server(store, *wanted)
            kept = self.last(store, ref)
            if code == 0 and kept:
                (store / _last(ref)).touch()
        if kept and (code == 0 or "find remote ref" not in said):  # or there is no connection
            self._unanswered += [f"{url} ({ref})"] if code else []
            return kept
        reasons = (line for line in said.splitlines() if line.strip() and not line.startswith("warning:"))
        raise GitError(f"git fetch {url} {ref}: {next(reasons, code)}")

    def at_server(self, store: Path | None, *arguments: str | Address) -> tuple[int, bytes, str]:
        """Run a command that talks to a server: outside of this repository, with the user's own configuration alone."""
        own = self._users_own()
        environment = git.for_server(self._at.environ, () if own is None and self._anonymous else own, store)
        words = []
        for argument in arguments:
            if isinstance(argument, Address):
                argument, config, given = argument.git_arguments()
                environment = git.with_config({**environment, **given}, config)
            words.append(argument)
        return git.Running(words, environment, cwd=Path("/")).result(check=False)

    def _run(self, directory: Path, *arguments: str) -> tuple[int, bytes, str]:
        environ = git.elsewhere(self._at.environ)
        try:
            bare = (directory / "HEAD").exists()
            found = repository.at(directory, directory, environ) if bare else repository.find(directory, environ)
        except LoomError as error:
            return 1, b"", error.message
        if found is None:
            return 1, b"", f"{directory}: no repository"
        asked = git.environment_for(environ, repository=found)
        return git.Running(arguments, asked, cwd=directory).result(check=False)

    @cache  # noqa: B019  # one of these lives as long as a command
    def _users_own(self) -> tuple[tuple[str, str], ...] | None:
        """Return the user's configuration as it counts for this repository; None where that can't be told."""
        found = repository.find(self._at.root, self._at.environ)
        if found is None:
            return None
        asked = git.in_repository(found, self._at.environ)
        listed = git.run(("config", "-z", "--list", "--show-scope"), asked, cwd=self._at.root)
        items = list(map(os.fsdecode, git.nul_list(listed)))
        given = (item.partition("\n") for scope, item in zip(items[::2], items[1::2], strict=True) if scope != "local")
        return tuple(
            (key, value if has_value else "true")
            for key, has_value, value in given
            if not self._anonymous or _WAYS.fullmatch(key.lower())
        )


def succeeded(what: str, result: tuple[int, bytes, str]) -> bytes:
    """Return the output of git. Raises GitError if it failed."""
    code, out, said = result
    if code != 0:
        raise GitError(f"git {what}: {said.strip() or code}")
    return out


def _last(ref: str) -> str:
    return f"refs/loom/{hashlib.sha256(ref.encode('utf-8', 'surrogateescape')).hexdigest()}"


def fetch_checkout(
    directory: Path,
    *,
    url: Address,
    sha: str,
    ref: str,
    branch: str,
    is_tag: bool,
    default_branch: str,
    depth: int | None,
    near: CheckoutRoot,
    anonymous: bool = False,
) -> None:
    """Make `directory` a checkout of the commit, on a branch or its tag. SnapshotError if it can't be had.

    `ref`: the server's, of which the commit is a part; `near`: a checkout that may have the commit; `depth`: how much
    history the server's job had (None: all); `anonymous`: as in `GitServer`.
    """
    shutil.rmtree(directory, ignore_errors=True)
    make_private(directory.parent)
    directory.mkdir(mode=0o700)
    git_dir, servers = directory / ".git", GitServer(near, anonymous=anonymous)
    environment = git.environment_for(near.environ, git_dir=git_dir, work_tree=directory)

    def run(*arguments: str) -> None:
        git.run(arguments, environment, cwd=directory)

    run("init", "--quiet")
    branch = branch.removeprefix("refs/heads/") or "HEAD"
    shallow = (f"--depth={depth}",) if depth else ()
    name = f"refs/tags/{ref}" if is_tag else f"refs/remotes/origin/{branch}"
    sources: list[Address | str] = (
        [f"file://{near.root}", url] if servers.has(near.root, sha) else [url, str(near.root)]
    )
    said = ""
    # By its name where the commit is not the tip of a ref; then by the ref, of which it is a part.
    for source, (wanted, deep) in product(sources, ((f"+{sha}:{name}", shallow), (f"+{ref}:{name}", ()))):
        words = ("fetch", "--quiet", *deep, "--no-tags", "--end-of-options", source, wanted)
        code, _, said_now = servers.at_server(git_dir, *words)
        if code == 0 and servers.has(directory, sha):
            break
        said = said or said_now
    else:
        last = said.strip().splitlines()[-1] if said.strip() else "it has no such commit"
        raise SnapshotError(
            f"commit {sha[:12]} of {url} can't be fetched: {last}",
            hint="git must be able to read the repository; or fetch the commit into your checkout, and try again",
        )
    run("update-ref", name, sha)
    run("config", "remote.origin.url", str(url))
    if default_branch:
        run("symbolic-ref", "refs/remotes/origin/HEAD", f"refs/remotes/origin/{default_branch}")
    run("checkout", "--quiet", *(("--detach", sha) if is_tag or branch == "HEAD" else ("-B", branch, sha)))
