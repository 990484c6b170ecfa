"""Lay out another tree than the checkout's: of an earlier snapshot that the checkout or a workspace still has, of a commit or of
the index.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from loom import snapshot
from loom.cancel import Cancel
from loom.commands.project import Project
from loom.commands.project.trusting import discover
from loom.errors import LoomError, RequestError, SnapshotError
from loom.snapshot import git, repository
from loom.snapshot.copy_files import GITS_UMASK
from loom.util.paths import new_workspace, run_of_workspace
from loom.values import Environ


def trees_of(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the trees of a snapshot, by the paths of its repositories: its own by "", then those of submodules."""
    return {"": facts["tree_sha"], **{each["path"]: each["tree_sha"] for each in facts.get("submodules", ())}}


def taken_again(
    project: Project,
    run_id: str,
    wanted: Mapping[str, Any],
    directories: Sequence[Path],
    workspace: Path,
    cancel: Cancel,
    *,
    hint: str | None = None,
    umask: int = GITS_UMASK,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Mapping[str, object]:
    """Fill the new directory `workspace` with the snapshot of a run, whose facts are `wanted`; return the new one's facts.

    `directories`: the checkout, and the run's workspace if it has one; `variables`: those of the run. RequestError where none
    has it.
    """
    reasons: list[str] = []
    checkout = directories[0]
    for directory, name in zip(directories, ("the checkout", "the run's workspace"), strict=False):
        if not directory.is_dir():
            reasons.append(f"{name} ({directory}) is gone")
            continue
        project.store.workspaces.make(workspace, run_id=run_of_workspace(workspace.name) or "", repo_root=checkout)
        try:
            own = directory == checkout
            environ = project.environ if own else git.elsewhere(project.environ)
            source = discover(directory, environ, flag=project.trusting)
            if own:
                source = snapshot.with_merge_of(source, variables)
            taken = snapshot.take(source, workspace, cancel=cancel, umask=umask)
        except LoomError as error:
            workspace.rmdir()
            if cancel.requested:
                raise
            reasons.append(f"{name}: {error.message}")
            continue
        facts = taken.document()
        if trees_of(facts) == trees_of(wanted):
            return {**facts, "source_root": str(checkout)}
        snapshot.remove(workspace)
        reasons.append(f"{name} has changed since (tree {taken.tree_sha[:12]})")
    raise RequestError(
        f"the snapshot of run {run_id} (tree {wanted['tree_sha'][:12]}) can't be made again: {'; '.join(reasons)}",
        hint=hint,
        code="SNAPSHOT_GONE",
    )


@contextmanager
def working_in(
    project: Project, commit: str | None, cancel: Cancel, *, branch: str = "", tag: str = ""
) -> Iterator[Path]:
    """Yield a checkout as `checked_out` does, with this process in the same directory of it, and without git's own variables."""
    with checked_out(project, commit, cancel, branch=branch, tag=tag) as root:
        same = root / project.start.relative_to(project.root)
        of_git = {name: os.environ.pop(name) for name in git.LOCAL_VARIABLES & os.environ.keys()}
        try:
            with chdir(same if same.is_dir() else root):
                yield root
        finally:
            os.environ.update(of_git)


@contextmanager
def checked_out(
    project: Project, commit: str | None, cancel: Cancel, *, branch: str = "", tag: str = ""
) -> Iterator[Path]:
    """Yield a checkout apart from the user's, with the trust of that one: of a commit, on a branch or on a tag alone if named;
    for None, of what is staged, on the user's branch.

    SnapshotError when it can't be made.
    """
    run_id = str(time.time_ns())
    workspace = new_workspace(project.config.tmp_dir, run_id)
    project.store.workspaces.make(workspace, run_id=run_id, repo_root=project.root, kind="snapshot")
    try:
        source = discover(project.root, project.environ, flag=project.trusting)
        if commit is None and source.unmerged:
            raise RequestError(
                f"{source.root}: in conflict, which git would not commit", hint="git add", code="UNMERGED"
            )
        snapshot.take(source, workspace, cancel=cancel)
        project.store.add_snapshot(workspace, snapshot.manifest_bytes(workspace))
        with git.ended_by(cancel):
            _check_out(workspace, commit, git.elsewhere(project.environ))
        if commit is None:
            commit, branch = source.head_sha, source.branch or ""
        if commit and (branch or tag):
            _name(project, workspace, commit, branch, tag)
        yield workspace
    finally:
        if any(workspace.iterdir()):
            snapshot.remove(workspace)
        else:
            workspace.rmdir()
        project.store.workspaces.forget(workspace)


def _name(project: Project, root: Path, commit: str, branch: str, tag: str) -> None:
    """Put the checkout at `root` on its branch or tag, with the user's name."""
    if (users := repository.find(project.root, project.environ)) is not None:
        identity = [(key, value) for key, value in users.config if key in ("user.name", "user.email")]
        with (root / ".git/config").open("a") as file:  # variables of a run have it
            file.write(repository.config_text(identity))
    environ = git.elsewhere(project.environ)
    found = repository.find(root, environ)
    assert found is not None
    environ = git.in_repository(found, environ)
    if tag:  # a run for a tag takes the only one that is there
        own = f"refs/tags/{tag}"
        listed = git.run(
            ("for-each-ref", "--format=%(refname)", f"--points-at={commit}", "refs/tags"), environ, cwd=root
        )
        names = os.fsdecode(listed).splitlines()
        if own not in names:  # an annotated one stays what it is
            git.run(("update-ref", own, commit), environ, cwd=root)
        for name in names:
            if name != own:
                git.run(("update-ref", "-d", name), environ, cwd=root)
    if branch:
        git.run(("update-ref", f"refs/heads/{branch}", commit), environ, cwd=root)
        git.run(("symbolic-ref", "HEAD", f"refs/heads/{branch}"), environ, cwd=root)


def _check_out(root: Path, commit: str | None, environ: Environ) -> None:
    """Make `root` what a commit has (None: the index), submodules included. SnapshotError for one that is missing, by name."""
    found, of = repository.find(root, environ), f"commit {commit[:12]}" if commit else "the index"
    if found is None or found.root != Path(os.path.realpath(root)):
        raise SnapshotError(f"{of} is of a submodule that the checkout does not have")
    asked = git.in_repository(found, environ)
    tree = commit or git.run(("write-tree",), asked, cwd=root).decode().strip()
    switch = ("checkout", "-q", "-f", "--detach", tree) if commit else ("read-tree", "--reset", "-u", tree)
    for arguments in (switch, ("clean", "-q", "-ffdx")):
        git.run(arguments, asked, cwd=root)
    for path, (mode, sha) in snapshot.tree_entries(asked, root, tree).items():
        if mode == "160000":
            try:
                _check_out(root / path, sha, environ)
            except SnapshotError as error:
                raise SnapshotError(
                    f"submodule {path} of {of} can't be checked out: {error.message}",
                    hint=f"git submodule update --init {path}, and fetch its commits there",
                ) from error
