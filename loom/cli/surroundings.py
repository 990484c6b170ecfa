"""What commands share about where they were started: the project, its configuration, what git says about it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loom.config import Config
    from loom.plan import ResolveContext

WORKFLOW = Path(".loom/workflow.yml")


def find_root(start: Path) -> Path:
    """The project that `start` lies in: the nearest folder upwards with a checkout or a `.loom`; else `start` itself.

    For commands that only read files; no repository is needed for them.
    """
    for folder in (start, *start.parents):
        if (folder / ".git").exists() or (folder / ".loom").is_dir():
            return folder
    return start


def workflow_path(root: Path, named: Path | None, start: Path) -> Path:
    """The workflow file: as named (relative to where the command was started), else the project's."""
    if named is not None:
        return named if named.is_absolute() else start / named
    other = root / ".loom/workflow.yaml"
    return other if other.exists() and not (root / WORKFLOW).exists() else root / WORKFLOW


def changed_since(
    root: Path, environ: Mapping[str, str], base: str | None = None
) -> Callable[[str | None], list[str] | None]:
    """For `changes:`: the files that differ between the work tree and a commit, untracked ones included.

    The commit is the rule's `compare_to`, else `base`, else HEAD; against another branch, only what this one changed since
    it left that branch counts. None when git can't tell.
    """

    def changed(compare_to: str | None) -> list[str] | None:
        since = compare_to or base or "HEAD"
        if since != "HEAD":
            fork = _git(root, environ, "merge-base", "--end-of-options", since, "HEAD")
            if fork is None:
                return None
            since = fork.decode().strip()
        tracked = _git(root, environ, "diff", "--name-only", "--no-renames", "-z", "--end-of-options", since, "--")
        untracked = _git(root, environ, "ls-files", "--others", "--exclude-standard", "-z", "--full-name")
        if tracked is None or untracked is None:
            return None
        return _paths(tracked + untracked)

    return changed


def files_of(root: Path, environ: Mapping[str, str]) -> Callable[[], list[str]]:
    """For `exists:`: every file that a snapshot would have, tracked or not ignored."""

    def files() -> list[str]:
        listed = _git(root, environ, "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--full-name")
        if listed is None:
            return [
                str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and ".git" not in path.parts
            ]
        return [path for path in _paths(listed) if os.path.lexists(root / path)]

    return files


def commit_variables(root: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """`CI_COMMIT_*` of the checkout, as far as there is one: for commands that make a plan without a run."""
    head = _git(root, environ, "rev-parse", "HEAD")
    branch = _git(root, environ, "symbolic-ref", "-q", "--short", "HEAD")
    variables = {
        "CI": "true",
        "LOOM_CI": "true",
        "CI_PIPELINE_SOURCE": "local",
        "CI_PROJECT_NAME": root.name or "project",
    }
    if head is not None:
        sha = head.decode().strip()
        variables |= {"CI_COMMIT_SHA": sha, "CI_COMMIT_SHORT_SHA": sha[:8], "CI_COMMIT_REF_NAME": sha}
    if branch is not None:
        name = os.fsdecode(branch).strip()
        variables |= {"CI_COMMIT_BRANCH": name, "CI_COMMIT_REF_NAME": name}
    elif head is not None:
        tags = _git(root, environ, "tag", "--points-at", "HEAD")
        first = os.fsdecode(tags or b"").split("\n")[0]
        if first:
            variables |= {"CI_COMMIT_TAG": first, "CI_COMMIT_REF_NAME": first}
    return variables


def resolve_context(root: Path, config: Config, environ: Mapping[str, str], base: str | None = None) -> ResolveContext:
    from loom.plan import ResolveContext

    return ResolveContext(
        config=config,
        predefined=commit_variables(root, environ),
        changed=changed_since(root, environ, base),
        files=files_of(root, environ),
    )


def pairs(given: Iterable[str], flag: str) -> dict[str, str]:
    """`NAME=value` options as a mapping."""
    from loom.errors import RequestError

    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise RequestError(f"{flag} {text}: expected NAME=value")
        found[name] = value
    return found


def _git(root: Path, environ: Mapping[str, str], *arguments: str) -> bytes | None:
    """Git's answer, or None when it has none (no git, no repository, no such commit)."""
    try:
        done = subprocess.run(
            ("git", "--no-optional-locks", *arguments),
            cwd=root,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def _paths(listed: bytes) -> list[str]:
    return [os.fsdecode(path) for path in listed.split(b"\0") if path]
