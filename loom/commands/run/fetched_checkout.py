"""A checkout of one commit of a server, in a directory of loom's own: the user's checkout is not touched."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from loom.addresses import Address
from loom.commands.run.git_server import GitServer
from loom.errors import SnapshotError
from loom.snapshot import git
from loom.util.private import make_private


def fetch_checkout(
    directory: Path,
    *,
    url: Address,
    sha: str,
    ref: str,
    is_tag: bool,
    default_branch: str,
    depth: int | None,
    near: Path,
    environ: Mapping[str, str],
) -> None:
    """Make `directory` a checkout of the commit, on its branch or tag. SnapshotError if it can't be had.

    `near`: a checkout that may have the commit; `depth`: how much history the server's job had (None: all).
    """
    shutil.rmtree(directory, ignore_errors=True)
    make_private(directory.parent)
    directory.mkdir(mode=0o700)
    git_dir, servers = directory / ".git", GitServer(near, environ)
    _git(("init", "--quiet"), directory, environ)
    branch = ref.removeprefix("refs/heads/") or "HEAD"
    shallow = (f"--depth={depth}",) if depth else ()
    name = f"refs/tags/{ref}" if is_tag else f"refs/remotes/origin/{branch}"
    sources: list[Address | str] = (
        [url, str(near)]
        if servers.asked(near, "cat-file", "-e", f"{sha}^{{commit}}") is None
        else [f"file://{near}", url]
    )
    said = ""
    for source in sources:
        # By its name where the commit is not the tip of a ref; then by the ref, of which it is a part.
        for wanted, deep in ((f"+{sha}:{name}", shallow), (f"+{ref}:{name}", ())):
            words = ("fetch", "--quiet", *deep, "--no-tags", "--end-of-options", source, wanted)
            code, _, said_now = servers.at_server(git_dir, *words)
            if code == 0 and _has(servers, directory, sha):
                break
            said = said or said_now
        else:
            continue
        break
    else:
        last = said.strip().splitlines()[-1] if said.strip() else "it has no such commit"
        raise SnapshotError(
            f"commit {sha[:12]} of {url} can't be fetched: {last}",
            hint="git must be able to read the repository; or fetch the commit into your checkout, and try again",
        )
    _git(("update-ref", name, sha), directory, environ)
    _git(("config", "remote.origin.url", str(url)), directory, environ)
    if default_branch:
        _git(("symbolic-ref", "refs/remotes/origin/HEAD", f"refs/remotes/origin/{default_branch}"), directory, environ)
    where = ("--detach", sha) if is_tag or branch == "HEAD" else ("-B", branch, sha)
    _git(("checkout", "--quiet", *where), directory, environ)


def _has(servers: GitServer, directory: Path, sha: str) -> bool:
    return servers.asked(directory, "cat-file", "-e", f"{sha}^{{commit}}") is not None


def _git(arguments: tuple[str, ...], directory: Path, environ: Mapping[str, str]) -> None:
    environment = git.environment_for(environ, git_dir=directory / ".git", work_tree=directory)
    code, _, said = git.Running(arguments, environment, cwd=directory).result(check=False)
    if code != 0:
        raise SnapshotError(f"{directory}: git {arguments[0]}: {said.strip()}")
