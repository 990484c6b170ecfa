"""Lay out the submodules that a server's job had: from the user's checkout, else from where their project says.

The commit may be a stranger's, and its job reads what is fetched: the user's credentials and ssh are for the addresses
that the user's own checkout has initialized. Others are asked over https, without a credential.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from loom.addresses import Address
from loom.commands.plan.git_server import GitError, GitServer, fetch_checkout
from loom.commands.project.checkout import git
from loom.errors import SnapshotError
from loom.plan.clone import Clone
from loom.snapshot import nul_list


def lay_out_submodules(
    root: Path, near: Path, clone: Clone, *, server: str, environ: Mapping[str, str], above: str = ""
) -> Iterator[str]:
    """Make the submodules of a checkout that loom made those of its commit; yield for each that can't be had why.

    `near`: the user's checkout of the project; `clone`: what the job there had; `server`: its address, whose scheme may be http.
    """
    servers = GitServer(near, environ)
    entries = nul_list(servers.told(root, "ls-tree", "-r", "-z", "HEAD"))
    commits = {path: about.split()[2] for about, _, path in (os.fsdecode(one).partition("\t") for one in entries)}
    gitlinks = {path: sha for path, sha in commits.items() if (root / path).is_dir() and not (root / path).is_symlink()}
    if not gitlinks:
        return
    try:
        servers.told(root, "submodule", "--quiet", "init")
    except GitError as error:
        yield f"{above or '.gitmodules'}: {error}"
        return
    asked = ("config", "-z", "--file", ".gitmodules", "--get-regexp", r"^submodule\..*\.path$")
    there, mine = _urls(root, environ), _urls(near, environ)
    for item in nul_list(servers.asked(root, *asked) or b""):
        key, _, path = os.fsdecode(item).partition("\n")
        name = key.removeprefix("submodule.").removesuffix(".path")
        if path not in gitlinks or name not in there or not clone.takes(path):
            continue
        url, inner = there[name], near / path if (near / path).is_dir() else near
        own = mine[name] if str(mine.get(name)) == str(url) else None
        sha, shown = gitlinks[path], f"{above}{path}"
        if own is None and not servers.has(inner, sha) and not str(url).startswith(("https://", f"{server}/")):
            yield f"{shown}: {url} is asked only if your checkout has it (git submodule update --init {shown})"
            continue
        try:
            fetch_checkout(
                root / path,
                url=own or url,
                sha=sha,
                ref="HEAD",
                branch="HEAD",
                is_tag=False,
                default_branch="",
                depth=clone.submodule_depth or None,
                near=inner,
                environ=environ,
                anonymous=own is None,
            )
        except SnapshotError as error:
            yield f"{shown}: {error.message}"
            continue
        if clone.submodules == "recursive":
            of_it = clone.clone_of_submodule()
            yield from lay_out_submodules(root / path, inner, of_it, server=server, environ=environ, above=f"{shown}/")


def _urls(root: Path, environ: Mapping[str, str]) -> dict[str, Address]:
    """Return the addresses of the submodules that are initialized in a repository, by their names."""
    found = git(root, environ, "config", "-z", "--get-regexp", r"^submodule\..*\.url$") or b""
    pairs = (os.fsdecode(item).partition("\n") for item in nul_list(found))
    return {key.removeprefix("submodule.").removesuffix(".url"): Address(url) for key, _, url in pairs}
