"""Decide the content of a snapshot from git's lists and the disk: files, other repositories, what is hidden from git."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from loom.errors import RequestError, SnapshotError
from loom.plan.clone import Clone
from loom.snapshot import git, tree
from loom.snapshot.index import Index, directories, is_directory, is_runtime, pin_name
from loom.snapshot.model import Source, object_format
from loom.snapshot.removal import is_workspace
from loom.snapshot.source import check_lenders_of_module, discover
from loom.util.paths import RUNTIME
from loom.values import Environ, Immutable


class New(Struct):
    """Files that git neither tracks nor ignores."""

    files: list[str] = []
    repositories: list[str] = []


def new_files_command(own: Iterable[str], *, outermost: bool) -> tuple[str, ...]:
    """Return the git command that lists them; `own` are loom's directories in the checkout."""
    patterns = [f"/{git.literal_pattern(path)}/" for path in own]
    if outermost:
        patterns.append("/" + RUNTIME)
    excludes = (word for pattern in patterns for word in ("--exclude", pattern))
    return ("ls-files", "-z", "--others", "--exclude-standard", *excludes)


def new_files(source: Source, listed: bytes, *, outermost: bool) -> New:
    """Parse the command's output."""
    new = New()
    for path in os.fsdecode(listed).split("\0")[:-1]:
        if not path.endswith("/"):
            if not (outermost and is_runtime(path)):
                new.files.append(path)
        elif not is_workspace(source.root / path):
            new.repositories.append(path[:-1])
    return new


def give_way(source: Source, index: Index, new: New, replaced: Iterable[str]) -> list[str]:
    """Remove hidden entries from `index` that git drops for something new of that name, or of a directory's; return them.

    `replaced`: directories that replaced tracked files: one of them may now be a repository.
    """
    hidden = (path for path, _ in index.pinned)
    new.repositories += [
        path
        for path in (*replaced, *hidden)
        if is_directory(source.root, path) and git.is_repository(source.root / path, source.environment)
    ]
    taken = {*new.files, *new.repositories}
    above = directories(taken)
    gone = {
        path for path, _ in index.pinned if path in above or path in taken or not taken.isdisjoint(directories([path]))
    }
    index.pinned = [(path, tag) for path, tag in index.pinned if path not in gone]
    return sorted(gone)


class Nested(Immutable):
    """The treatment of a submodule or nested repository."""

    directory: bool = True
    commit: str | None = None
    """Its new id in the tree; None: the index's."""
    inner: Source | None = None
    """Its checkout; laid out when .gitmodules has a `name` for it."""
    name: str | None = None
    reason: str | None = None
    """Why files of it are missing; None if expected."""


def decide(source: Source, path: str, index: Index, names: Callable[[], Mapping[str, str]], *, tracked: bool) -> Nested:
    """`names` maps paths to the names in the snapshot's .gitmodules."""
    directory = source.root / path
    there = is_directory(source.root, path) and os.path.lexists(directory / ".git")
    inner = inner_repository(directory, source) if there else None
    if path in index.pinned_gitlinks:
        tag, commit = index.pinned_gitlinks[path]
        if inner is None:
            return Nested()
        if inner.head_sha != commit:
            why = f"a submodule at another commit ({pin_name(tag)} hides that): an empty directory"
            return Nested(reason=why)
    if tracked and not is_directory(source.root, path):
        return Nested(directory=False)
    if inner is None:
        if not tracked:
            why = "a repository of its own without a commit: git can't add it"
            return Nested(directory=False, reason=why)
        return Nested(reason=_not_checked_out(source, path, in_conflict=path in index.unmerged))
    if len(inner.head_sha) != len(source.head_sha):
        why = f"a repository of another format ({object_format(inner.head_sha)}): git can't name its commit here"
        return Nested(reason=why)
    name = names().get(path)
    if name is not None:
        return Nested(commit=inner.head_sha, inner=inner, name=name)
    what = "a repository that .gitmodules does not name" if tracked else "a repository of its own, and no submodule"
    return Nested(commit=inner.head_sha, reason=f"{what}: CI has an empty directory there")


def cloned(nested: Nested, path: str, clone: Clone, names: Mapping[str, str]) -> Nested:
    """Return the treatment of a submodule in a workspace that is `clone`."""
    if not clone.takes(path):
        return replace(nested, inner=None, name=None, reason=None)
    if nested.inner is None and nested.reason is None and path in names:
        why = f"a submodule that CI gives the job, and that is not checked out: git submodule update --init {path}"
        return replace(nested, reason=why)
    return nested


def _not_checked_out(source: Source, path: str, *, in_conflict: bool) -> str | None:
    directory = source.root / path
    if in_conflict:
        return "a submodule in conflict that is not checked out: git can't add it"
    if os.path.lexists(directory / ".git"):
        return "a submodule in which git finds no commit: an empty directory"
    return (
        "files in a submodule that is not checked out: git does not look at them" if any(directory.iterdir()) else None
    )


def inner_repository(directory: Path, outer: Source) -> Source | None:
    """Return the repository at `directory` in another's checkout, as its own checkout; None without a commit.

    RequestError when git does not trust it, or when its `.git` leads to a repository that does not lead back, or has links
    or borrows objects that lead elsewhere.
    """
    modules = (outer.git_dir / "modules", outer.common_dir / "modules")
    try:
        inner = discover(directory, environ=outer.environment, commit=False, modules=modules, filters=outer.may_filter)
    except RequestError as error:
        if error.code in ("REPOSITORY_NOT_TRUSTED", "REPOSITORY_ELSEWHERE", "REPOSITORY_LINKED", "OBJECTS_ELSEWHERE"):
            raise
        return None
    check_lenders_of_module(inner.objects_dir, outer.objects_dir)
    return inner if inner.root == directory.resolve() else None


def submodule_names(file: Path, source: Source) -> dict[str, str]:
    """Return path -> name of the submodules that a .gitmodules names; none where it is no file."""
    if not file.is_file() or file.is_symlink():
        return {}
    _, out, _ = git.Running(
        ("config", "-z", "--file", str(file), "--get-regexp", r"^submodule\..*\.path$"),
        git.environment_for(source.environment, repository=source.repository, index=source.index_path),
        cwd=source.root,
    ).result(check=False)
    pairs = (os.fsdecode(item).partition("\n") for item in git.nul_list(out))
    named = {path: key.removeprefix("submodule.").removesuffix(".path") for key, _, path in pairs}
    # The others git refuses as well: a name becomes a path below .git/modules.
    return {path: name for path, name in named.items() if name and not {".", ".."} & set(re.split(r"[/\\]", name))}


def module_directory(name: str, taken: list[str]) -> str:
    """Return the git directory of a submodule below .git/modules. Names may be the same, or inside another."""
    parts = name.split("/")
    usual = all(parts) and max(map(len, map(os.fsencode, parts))) < 200
    clashes = any(name == other or name.startswith(f"{other}/") or other.startswith(f"{name}/") for other in taken)
    directory = name if usual and not clashes else f"loom-{len(taken)}"
    taken.append(directory)
    return directory


# Files hidden from git: skip-worktree, assume-unchanged, and those that a sparse checkout excludes


def drop_intended(index: Index, environment: Environ, workspace: Path, zero_sha: str) -> list[tuple[str, str]]:
    """Remove from `index.pinned` the files that `git add -N` only announced, and return their (path, tag): `git add` skips them.

    `environment` names the workspace's index; they are removed from it as well.
    """
    intended = git.intended(environment, cwd=workspace) & {path for path, _ in index.pinned}
    if not intended:
        return []
    tree.apply(environment, workspace, tree.IndexEdits(removed=sorted(intended)), zero_sha=zero_sha)
    dropped = [(path, tag) for path, tag in index.pinned if path in intended]
    index.pinned = [(path, tag) for path, tag in index.pinned if path not in intended]
    return dropped


def lay_out_hidden(paths: list[str], environment: Environ, workspace: Path, source: Source, *, umask: int) -> None:
    """Write these files' content from the index into the workspace, so that git can examine them.

    `environment` names the workspace's index, with the user's configuration.
    """
    given = git.nul_joined(paths)
    for switch in ("--no-skip-worktree", "--no-assume-unchanged"):
        git.run(("update-index", switch, "-z", "--stdin"), environment, cwd=workspace, given=given)
    try:
        checkout = ("checkout-index", "--force", "-u", "-z", "--stdin")
        git.Running(checkout, environment, cwd=workspace, given=given, umask=umask).result()
    except git.GitFailed as error:
        if not source.repository.partial:
            raise
        raise SnapshotError(
            f"{source.root}: this partial clone lacks files that are hidden from git, or outside of a sparse checkout, and loom "
            f"fetches nothing for it: {error.stderr.strip()}",
            hint=f"fetch what CI checks out: git -C {source.root} archive --output=/dev/null HEAD",
            code="OBJECTS_NOT_FETCHED",
        ) from error
