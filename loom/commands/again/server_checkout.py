"""Fetch the checkout that a server's job had: its commit, and its submodules, from the user's checkout or from the server.

The commit may be a stranger's, and its job reads what is fetched: the user's credentials and ssh are for the addresses
that the user's own checkout has initialized. Other submodules are asked for over https, without a credential.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from loom.addresses import Address
from loom.analysis.server_log import LogFacts
from loom.commands.again.server_job import ServerJob
from loom.commands.plan.git_server import GitError, GitServer, fetch_checkout
from loom.commands.project import CheckoutRoot
from loom.commands.project.checkout import git
from loom.commands.screen import progress_line
from loom.commands.servers import RemotePipeline
from loom.errors import SnapshotError
from loom.plan.clone import Clone, Recursion
from loom.plan.github.events import ON_MERGE
from loom.plan.model import Job
from loom.snapshot import elsewhere, nul_list
from loom.util.controls import shown

_MERGED = re.compile(rb"\+(?P<sha>[0-9a-f]{40,64}):refs/remotes/(?P<ref>pull/\d{1,18}/merge)\b")
"""The commit of a pull request's merge, in the command by which `actions/checkout` fetches it."""
_SUBMODULES = re.compile(rb"Updating/initializing submodules|\[command\]\S*git .*submodule update --init --force.*")
"""The line of GitLab's runner, and the command of `actions/checkout`."""


def fetch(there: ServerJob, pipeline: RemotePipeline, log: bytes, facts: LogFacts) -> None:
    """Fetch the commit that the job ran on, a pull request's merge if the `log` names it and the server still has it."""
    job, on_merge = there.job, pipeline.source in ON_MERGE
    fetched, merged = job.sha, _MERGED.search(log) if on_merge else None
    named = merged["sha"].decode() if merged is not None else ""
    try:
        if merged is None:
            _fetch_commit(there, pipeline, job.sha, job.ref, facts.depth)
        else:
            _fetch_commit(there, pipeline, named, f"refs/{merged['ref'].decode()}", facts.depth)
            fetched = named
    except SnapshotError:
        if merged is None:
            raise
        _fetch_commit(there, pipeline, job.sha, job.ref, facts.depth)
    if on_merge and not named:
        named = "a merge of the pull request, which its log does not name"
    elif facts.format == "gitlab":
        named = named or facts.commit
    if named and not fetched.startswith(named):
        note = f"not the same commit: the job there ran on {named}, this one on {fetched[:12]}"
        there.differences.add("commit", named, fetched, note=note)


def _fetch_commit(there: ServerJob, pipeline: RemotePipeline, sha: str, ref: str, depth: str) -> None:
    of_request = ref.startswith(("refs/merge-requests/", "refs/pull/"))
    with progress_line(f"fetching commit {sha[:12]}"):
        fetch_checkout(
            there.tree,
            url=there.clone_url(),
            sha=sha,
            ref=ref,
            branch=pipeline.branch or "merge-request" if of_request else ref,
            is_tag=there.job.is_tag,
            default_branch=pipeline.default_branch,
            depth=int(depth) if depth.isdigit() and int(depth) else None,
            near=there.project,
        )


def fetch_submodules(there: ServerJob, target: Job, log: bytes, depth: str) -> None:
    """Fetch the submodules that the job had there, by its `log` and its plan; note those that can't be had."""
    clone, told = target.clone, _SUBMODULES.search(log)
    if there.address.kind == "github" and told is not None:
        recursion: Recursion = "recursive" if b"--recursive" in told[0] else "normal"
        clone = Clone(submodules=recursion, submodule_depth=int(depth) if depth.isdigit() else 0)
    if clone is None or clone.submodules == "none":
        if told is not None:
            note = "unknown: the submodules, which the job there had, and for which its file does not ask"
            there.differences.add("submodules", "present", note=note)
        return
    with progress_line("fetching submodules"):
        missing = [*_lay_out_submodules(there.tree, there.project, clone, server=there.address.server)]
    for why in missing:
        print(shown(f"submodule that the job there had, and that is missing here: {why}"), file=sys.stderr)
        there.differences.note(f"unknown: the submodule {why}")
    if missing:
        there.differences.add("submodules", "present", f"{len(missing)} missing")


def _lay_out_submodules(root: Path, near: CheckoutRoot, clone: Clone, *, server: str, above: str = "") -> Iterator[str]:
    """Make the submodules of a checkout that loom made those of its commit; yield for each that can't be had why.

    `near`: the user's checkout of the project; `clone`: what the job there had; `server`: its address, whose scheme may be http.
    """
    servers, apart = GitServer(near), elsewhere(near.environ)
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
    there, mine = _urls(CheckoutRoot(root=root, environ=apart)), _urls(near)
    for item in nul_list(servers.asked(root, *asked) or b""):
        key, _, path = os.fsdecode(item).partition("\n")
        name = key.removeprefix("submodule.").removesuffix(".path")
        if path not in gitlinks or name not in there or not clone.takes(path):
            continue
        url, inner = there[name], near.root / path if (near.root / path).is_dir() else near.root
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
                near=replace(near, root=inner),
                anonymous=own is None,
            )
        except SnapshotError as error:
            yield f"{shown}: {error.message}"
            continue
        if clone.submodules == "recursive":
            of_it = clone.clone_of_submodule()
            yield from _lay_out_submodules(
                root / path, CheckoutRoot(root=inner, environ=apart), of_it, server=server, above=f"{shown}/"
            )


def _urls(at: CheckoutRoot) -> dict[str, Address]:
    """Return the addresses of the submodules that are initialized in a repository, by their names."""
    found = git(at, "config", "-z", "--get-regexp", r"^submodule\..*\.url$") or b""
    pairs = (os.fsdecode(item).partition("\n") for item in nul_list(found))
    return {key.removeprefix("submodule.").removesuffix(".url"): Address(url) for key, _, url in pairs}
