"""Make the merge commit that GitHub runs a pull request on: of the base branch's tip and HEAD, as `git merge` makes it.

Its id depends on both alone, so that each workspace gets the commit that the plan names. Nothing is written to the source;
git renews the times of objects that it finds there.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from loom.errors import RequestError, SnapshotError
from loom.snapshot import git, tree
from loom.snapshot.merge import GITLINK, apply_to
from loom.snapshot.model import Change, PullRequest, Source, readable
from loom.util.bounded import listed

WORK = "LOOM_WORK"
"""The commit of the uncommitted work, a child of HEAD's, in the git directory of a workspace."""
_MOST_NAMED = 10
_DECIDES = re.compile(r"\.github/|(.*/)?(\.gitattributes|action\.ya?ml)$")
"""The files that the plan is made of, and that decide which bytes others have."""


def with_merge(source: Source, base: str, tip: str) -> Source | str:
    """Return the source with its merge into the branch `base`, which is at `tip`; or why it can't be made here.

    RequestError for files in conflict.
    """
    with tempfile.TemporaryDirectory(prefix="loom-merge-") as store:
        here = git.environment_for(
            source.environment, repository=source.repository, objects=Path(store), alternates=(source.objects_dir,)
        )
        here |= git.NO_USER_CONFIG
        request = PullRequest(base=base, tip=tip, sha="")
        try:
            merged = _merged_tree(here, source.root, request, source.head_sha)
            changes = _changes(here, source.root, source.head_tree_sha, merged)
            sha = _commit(here, source.root, merged, (tip, source.head_sha))
        except git.GitFailed as error:
            if error.returncode == 129:
                return "for which git 2.38 is needed"
            said = error.stderr.strip().rpartition("\n")[2].removeprefix("fatal: ")
            return f"which git can't make here ({said})"
    for change in changes:
        if GITLINK in (change.mode, change.old_mode) or _DECIDES.match(change.path):
            return f"which changes {readable(change.path)}"
    return dataclasses.replace(source, pull_request=dataclasses.replace(request, sha=sha))


def with_merge_of(source: Source, variables: Mapping[str, str]) -> Source:
    """Return the source with the merge on which a run with these variables was, if it was on one.

    RequestError where that can't be made.
    """
    if not (tip := variables.get("CI_MERGE_REQUEST_TARGET_BRANCH_SHA")):
        return source
    found = with_merge(source, variables["CI_MERGE_REQUEST_TARGET_BRANCH_NAME"], tip)
    if isinstance(found, str):
        raise RequestError(f"{source.root}: the run was on the merge with {tip[:12]}, {found}")
    return found


def bring(
    source: Source,
    request: PullRequest,
    here: Mapping[str, str],
    target: Path,
    work: tuple[str, tuple[Change, ...]],
    *,
    umask: int,
) -> tuple[str, tuple[Change, ...]]:
    """Make the files, the index and HEAD of a workspace those of the merge; return its tree, and what changed in the files.

    `here` is the environment of its git, `work` the tree that it has of the source, and the differences from HEAD.
    RequestError where the work is in conflict with the base branch.
    """
    tree_sha, changed = work
    merged = committed = _merged_tree(here, target, request, source.head_sha)
    sha = _commit(here, target, committed, (request.tip, source.head_sha))
    if changed:
        commit = _commit_of(here, target, tree_sha, changed, source.head_sha)
        (target / ".git" / WORK).write_text(f"{commit}\n")
        merged = _merged_tree(here, target, request, commit)
    (target / ".git/HEAD").write_text(f"{sha}\n")
    changes = _changes(here, target, tree_sha, merged)
    git.run(("read-tree", "--reset", merged), here, cwd=target)
    apply_to(target, (change for change in changes if change.kind == "deleted"), lambda _: None)
    written = git.nul_joined(change.path for change in changes if change.kind != "deleted")
    checkout = ("checkout-index", "--force", "-z", "--stdin")
    git.Running(checkout, here, cwd=target, given=written, umask=umask).result()
    return merged, changes


def _merged_tree(here: Mapping[str, str], root: Path, request: PullRequest, commit: str) -> str:
    words = ("merge-tree", "--write-tree", "--name-only", "--no-messages", "-z", request.tip, commit)
    code, out, stderr = git.Running(words, here, cwd=root).result(check=False)
    if code not in (0, 1):
        raise git.GitFailed(words, code, stderr, cwd=root)
    merged, *conflicts = map(os.fsdecode, git.nul_list(out))
    if code == 1:
        named = ", ".join(listed(map(readable, conflicts), _MOST_NAMED))
        raise RequestError(
            f"in conflict with {request.base} ({request.tip[:12]}), so GitHub runs nothing for a pull request: {named}",
            hint=f"git merge {request.tip[:12]}, and resolve them; or run HEAD alone: --event push",
            code="MERGE_CONFLICT",
        )
    return merged


def _commit(here: Mapping[str, str], root: Path, tree_sha: str, parents: tuple[str, ...]) -> str:
    """Commit a tree with the name and the time of the last of the parents."""
    asked = ("log", "-1", "--no-show-signature", "--format=%an%x00%ae%x00%ct", parents[-1])
    name, email, seconds = os.fsdecode(git.run(asked, here, cwd=root)).rstrip("\n").split("\0")
    date = f"@{seconds} +0000"
    by = {
        "GIT_AUTHOR_NAME": name,
        "GIT_AUTHOR_EMAIL": email,
        "GIT_AUTHOR_DATE": date,
        "GIT_COMMITTER_NAME": "GitHub",
        "GIT_COMMITTER_EMAIL": "noreply@github.com",
        "GIT_COMMITTER_DATE": date,
    }
    message = f"Merge {parents[-1]} into {parents[0]}" if parents[1:] else "Uncommitted work"
    words = ("commit-tree", tree_sha, *(word for sha in parents for word in ("-p", sha)), "-m", message)
    return git.run(words, {**here, **by}, cwd=root).decode().strip()


def _commit_of(here: Mapping[str, str], target: Path, tree_sha: str, changed: tuple[Change, ...], head_sha: str) -> str:
    """Commit the work in a workspace, which so far has its ids, but not its objects."""
    index = target / ".git/loom-index"
    there = {**here, "GIT_INDEX_FILE": str(index)}
    edits = tree.IndexEdits(
        removed=[change.path for change in changed if change.kind == "deleted"],
        gitlinks=[(change.path, change.sha) for change in changed if change.mode == GITLINK],
    )
    present = (change.path for change in changed if change.kind != "deleted" and change.mode != GITLINK)
    try:
        git.run(("read-tree", head_sha), there, cwd=target)
        tree.apply(there, target, edits, zero_sha="0" * len(head_sha))
        given = git.nul_joined(present)
        git.run(("update-index", "--add", "--remove", "-z", "--stdin"), there, cwd=target, given=given)
        if (found := git.run(("write-tree",), there, cwd=target).decode().strip()) != tree_sha:
            raise SnapshotError(
                f"the merge has no uncommitted work that passes a filter ({found[:12]}, not {tree_sha[:12]})",
                hint="commit it first",
            )
    finally:
        index.unlink(missing_ok=True)
    return _commit(here, target, tree_sha, (head_sha,))


def _changes(here: Mapping[str, str], root: Path, old: str, new: str) -> tuple[Change, ...]:
    return tree.parse_raw(git.run(("diff-tree", "-r", "--raw", "-z", "--no-renames", old, new), here, cwd=root))
