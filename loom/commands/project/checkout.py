"""Facts about the checkout, from git."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from msgspec.structs import replace

from loom.addresses import Address
from loom.commands.project import CheckoutRoot
from loom.errors import SnapshotError
from loom.plan import variables
from loom.plan.variables import DEFAULT_EVENT, HeadCommit, Message
from loom.snapshot.model import PullRequest, Source
from loom.snapshot.repository import find
from loom.values import Environ


def changed_since(at: CheckoutRoot, base: str | None, compare_to: str | None) -> list[str] | None:
    """List, for `changes:`, the files that differ between the work tree and a commit, untracked ones included.

    The commit is the rule's `compare_to`, else `base`, else HEAD; against another branch, only what this one changed since
    it left that branch counts. None when git can't tell.
    """
    since = compare_to or base or "HEAD"
    if since != "HEAD":
        fork = git(at, "merge-base", "--end-of-options", since, "HEAD")
        if fork is None:
            return None
        since = fork.decode().strip()
    tracked = git(at, "diff", "--name-only", "--no-renames", "-z", "--end-of-options", since, "--")
    untracked = git(at, "ls-files", "--others", "--exclude-standard", "-z", "--full-name")
    return None if tracked is None or untracked is None else _paths(tracked + untracked)


def files_of(at: CheckoutRoot) -> list[str]:
    """List, for `exists:`, every file that a snapshot would have, tracked or not ignored."""
    listed = git(at, "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--full-name")
    if listed is None:
        return [
            str(path.relative_to(at.root)) for path in at.root.rglob("*") if path.is_file() and ".git" not in path.parts
        ]
    return [path for path in _paths(listed) if os.path.lexists(at.root / path)]


def is_ignored(at: CheckoutRoot, path: Path) -> bool:
    """Tell, for trust, whether a path below the root exists and is in no snapshot, neither tracked nor to be added."""
    listed = ("ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", f":(literal){path}")
    return (at.root / path).exists() and not git(at, *listed)


def ignored_among(at: CheckoutRoot, paths: Iterable[str]) -> set[str]:
    """Return, for `loom watch`, those of these paths that git ignores, and does not track; none where git can't tell."""
    given = b"".join(os.fsencode(path) + b"\0" for path in paths)
    return set(_paths(git(at, "check-ignore", "-z", "--stdin", given=given) or b""))


def _message(source: Source, environ: Environ, commit: HeadCommit, event: str) -> Message | None:
    """Return what git says of HEAD, which `commit` describes without it, for the variables of a run.

    None without a commit, and for a repository whose borrowed objects the user has not allowed.
    """
    from loom.snapshot.source import refused_lenders  # as in `git`

    if not source.commit or refused_lenders(source):
        return None
    at = CheckoutRoot(root=source.root, environ=environ)
    author, timestamp, parents, text = source.commit.decode("utf-8", "surrogateescape").split("\0", 3)
    return Message(
        author=author,
        timestamp=timestamp,
        text=text.strip("\n"),
        parent=parents.partition(" ")[0],
        tag=_message_of_tag(at, tag) if (tag := variables.tag_of(commit, event)) else "",
        fork=_fork(at, commit, event),
    )


def _message_of_tag(at: CheckoutRoot, tag: str) -> str:
    """Return the message of an annotated tag, without its signature; empty for another one."""
    parts = "%(if:equals=tag)%(objecttype)%(then)%(contents)%00%(contents:signature)%(end)"
    answer = git(at, "for-each-ref", f"--format={parts}", f"refs/tags/{tag}")
    text, _, signature = (answer or b"").decode("utf-8", "surrogateescape").removesuffix("\n").partition("\0")
    return text.removesuffix(signature).strip("\n")


def _fork(at: CheckoutRoot, commit: HeadCommit, event: str) -> str:
    """Return the commit at which the branch left the default branch; empty where no variable has it."""
    default = commit.default_branch
    if default is None or (event != "merge_request" and commit.branch in (None, default)):
        return ""
    sides = (f"refs/{where}/{default}" for where in ("remotes/origin", "heads"))
    found = (git(at, "merge-base", "HEAD", side) for side in sides)
    return next((os.fsdecode(answer).split("\n")[0] for answer in found if answer), "")


def head_of(source: Source) -> HeadCommit:
    """Return the commit that is checked out, as `source` describes it."""
    refs = {name: (sha, target) for name, sha, target in source.refs}
    _, default = refs.get("refs/remotes/origin/HEAD", ("", ""))
    sha, _ = refs.get(f"refs/remotes/origin/{source.branch}", (None, ""))
    return HeadCommit(
        sha=source.head_sha,
        branch=source.branch,
        tags=source.tags,
        default_branch=variables.default_branch(default, refs, source.config.get("init.defaultbranch", ("",))[-1]),
        remote_sha=variables.remote_sha(sha, source.origin_url),
    )


def run_variables(
    run_id: str,
    source: Source,
    workflow_path: str,
    environ: Environ,
    event: str = DEFAULT_EVENT,
    *,
    root: Path | None = None,
) -> dict[str, str]:
    """Return the variables for all jobs of a run on `source`. `root`: the checkout that it was taken from, if it is a copy."""
    commit = head_of(source)
    message = _message(source, environ, commit, variables.gitlab_event(event))
    name, email = (source.config.get(f"user.{part}", ("",))[-1] for part in ("name", "email"))
    return variables.run_variables(
        run_id=run_id,
        event=event,
        workflow_path=workflow_path,
        commit=replace(commit, message=message),
        project_name=variables.project_name_of(root or source.root),
        origin_url=source.origin_url,
        user=variables.User(name=name, email=email),
    )


def merge_variables(source: Source, request: PullRequest) -> dict[str, str]:
    """Return the variables of a run on the merge of a pull request that differ from those of HEAD's."""
    return {
        "CI_COMMIT_SHA": request.sha,
        "CI_COMMIT_SHORT_SHA": request.sha[:8],
        "CI_MERGE_REQUEST_SOURCE_BRANCH_SHA": source.head_sha,
        "CI_MERGE_REQUEST_TARGET_BRANCH_SHA": request.tip,
    }


def origin_of(at: CheckoutRoot) -> Address | None:
    found = find(at.root, at.environ)
    urls = [value for key, value in found.config if key == "remote.origin.url"] if found is not None else []
    return Address(urls[-1]) if urls else None


def git(at: CheckoutRoot, *arguments: str, given: bytes | None = None) -> bytes | None:
    """Return git's output, or None on failure (no git, no repository, no such commit)."""
    from loom.snapshot.git import Running, in_repository  # 10 ms, and `loom check` asks git nothing

    try:
        repository = find(at.root, at.environ)
        if repository is None:
            return None
        asked = in_repository(repository, at.environ) | {"GIT_LITERAL_PATHSPECS": "0"}
        code, out, _ = Running(arguments, asked, cwd=at.root, given=given).result(check=False)
    except SnapshotError as error:
        if error.code == "GIT_WAITS":
            raise  # the next one would wait as well
        return None
    return out if code == 0 else None


def _paths(listed: bytes) -> list[str]:
    return [os.fsdecode(path) for path in listed.split(b"\0") if path]
