"""Snapshots as frozen values."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from loom.errors import SnapshotError
from loom.plan.clone import Clone
from loom.snapshot.repository import RepositoryView
from loom.status import ExitCode
from loom.values import Environ, Immutable

# What may stand in a manifest that a job wrote: no option or ref for git, no NUL, and no path out of the workspace
# or into a git directory.
Text = Annotated[str, Meta(pattern=r"(?s)\A[^\0]*\Z")]
Sha = Annotated[str, Meta(pattern=r"\A([0-9a-f]{40}|[0-9a-f]{64})\Z")]
Mode = Annotated[str, Meta(pattern=r"\A[0-7]{6}\Z")]
_Key = Annotated[str, Meta(pattern=r"(?s)\A[A-Za-z][A-Za-z0-9-]*(\.[^\0]*)?\.[A-Za-z][A-Za-z0-9-]*\Z")]
_Inside = Annotated[str, Meta(pattern=r"(?s)\A(?!(.*/)?(\.{0,2}|\.git)(/|\Z))[^\0]*\Z")]


class SnapshotCanceled(SnapshotError):
    """The cancel flag was set during a capture; the workspace is empty."""

    exit_code: ClassVar[int] = ExitCode.INTERRUPTED
    default_code: ClassVar[str] = "SNAPSHOT_CANCELED"


def readable(path: str) -> str:
    """Escape a path for screen or JSON: bytes that are not UTF-8, and line breaks."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return (
        text
        if text.isprintable()
        else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    )


def path_fields(path: str, name: str = "path") -> dict[str, str]:
    """Return `path` for a JSON document, with `<name>_b64` if the text can't be converted back."""
    shown = readable(path)
    if shown.encode("utf-8", "surrogateescape") == os.fsencode(path):
        return {name: shown}
    return {name: shown, f"{name}_b64": base64.b64encode(os.fsencode(path)).decode("ascii")}


def object_format(sha: str) -> str:
    """Return git's name of the format that an id is of."""
    return "sha1" if len(sha) == 40 else "sha256"


class Rules(Immutable):
    """The files outside a work tree that decide which of its files count, and how."""

    excludes: bytes = b""
    attributes: bytes = b""
    """The user's own, overridden by the work tree's."""
    own_attributes: bytes = b""
    """The repository's own, which override the work tree's."""
    config: tuple[tuple[_Key, Text], ...] = ()
    raw: tuple[tuple[Text, Sha], ...] = ()
    """(path, id of unfiltered bytes) of files with a filter of the user."""


class ProvedTree(Immutable):
    """The content of one repository in a workspace, with its proof.

    `tree_sha` is what `git add -A && git write-tree` would give in the source, computed from the copy.
    """

    head_sha: Sha
    tree_sha: Sha
    changed: tuple[Change, ...]
    rules: Rules


class Submodule(ProvedTree):
    path: _Inside


class Manifest(ProvedTree):
    """The data with which `verify` rebuilds a snapshot's tree."""

    source_root: Text
    branch: Text | None
    stores: tuple[Text, ...]
    submodules: tuple[Submodule, ...]
    left_out: tuple[LeftOut, ...]
    brought: tuple[_Inside, ...] = ()
    """The paths at which the files are of a pull request's merge, not of the checkout."""
    kept: tuple[_Inside, ...] = ()
    """The paths at which the job's files kept their own content in a sync, against that of the checkout."""


class Change(Immutable):
    """One path that differs between two trees. Paths are `os.fsdecode`d; ids are git's, all zeros for none.

    `kind` is `added`, `modified`, `deleted`, `type_changed` or `mode_changed`.
    """

    path: _Inside
    kind: str
    old_mode: Mode
    mode: Mode
    old_sha: Sha
    sha: Sha

    def document(self) -> dict[str, Any]:
        return {**path_fields(self.path), "kind": self.kind, "mode": self.mode, "sha": self.sha}


class LeftOut(Immutable):
    """A part of the source that the workspace lacks or shows differently, and the reason."""

    path: Text
    reason: Text

    def document(self) -> dict[str, Any]:
        return {**path_fields(self.path), "reason": self.reason}


Allows = Callable[[RepositoryView], bool]
"""Whether the filters count that a repository's own configuration names."""
Lends = Callable[[Sequence[Path]], bool]
"""Whether a workspace may have the objects of these stores of other repositories."""


@dataclass(frozen=True, kw_only=True)
class PullRequest:
    """The merge on which GitHub runs the checks of a pull request."""

    base: str
    """The branch into which HEAD goes."""
    tip: str
    """Its commit, the first parent of the merge."""
    sha: str
    """The merge of it and HEAD."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A repository that `discover` found. Paths are absolute."""

    repository: RepositoryView
    root: Path
    git_dir: Path
    """This checkout's git directory (of a linked worktree: `.git/worktrees/<name>` of the main repository)."""
    common_dir: Path
    objects_dir: Path
    index_path: Path
    head_sha: str
    head_tree_sha: str
    commit: bytes
    """git's answer to `source.COMMIT`; empty where it has none, or was not asked."""
    unmerged: tuple[str, ...]
    """Files in conflict, which git would not commit; none where it was not asked."""
    branch: str | None
    """The checked-out branch; None with a detached HEAD."""
    tags: tuple[str, ...]
    """Tags that point at HEAD."""
    origin_url: str | None
    """Without a password."""
    read_only_mounts: tuple[Path, ...]
    """Object stores that a workspace borrows from; containers mount them read-only at the same path."""
    shallow: bool = False
    pull_request: PullRequest | None = None
    """The merge that a workspace has instead of HEAD (`pull_request.with_merge`)."""
    clone: Clone | None = None
    """What a workspace has of it (`history.as_cloned`); None: everything."""
    boundary: frozenset[str] | None = None
    """The commits whose parents a workspace lacks; None: those of a `shallow` repository."""
    refs: tuple[tuple[str, str, str], ...] = field(default=(), repr=False)
    """(name, id, target of a symbolic ref or "") of branches, remote branches and tags."""
    config: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False, hash=False)
    """git's configuration as far as it counts (`snapshot.repository`), keys as git prints them."""
    environment: Environ = field(default_factory=dict, repr=False, hash=False, compare=False)
    """The environment of git processes that read this source."""
    may_lend: Lends = field(default=lambda _: False, repr=False, hash=False, compare=False)
    may_filter: Allows = field(default=lambda _: False, repr=False, hash=False, compare=False)
    """Tells of a repository below whether its own filters count."""
    attributes_tree: str | None = None
    """The tree that replaces the work tree's .gitattributes (`GIT_ATTR_SOURCE`, `attr.tree`)."""

    @property
    def home_environment(self) -> dict[str, str]:
        """Return the environment of a git process in `root` with the user's filters."""
        # Messages are parsed, so in English; "en" has no catalogue, and filters keep their locale.
        result = {name: value for name, value in self.environment.items() if not name.startswith("GIT_TRACE")}
        result["LANGUAGE"] = "en"
        return result | self.repository.environment

    @property
    def attributes_config(self) -> list[tuple[str, str]]:
        """Return `attributes_tree` as a setting for git elsewhere."""
        return [] if self.attributes_tree is None else [("attr.tree", self.attributes_tree)]


class Snapshot(Manifest):
    """A filled workspace."""

    path: Path
    files: int
    bytes: int
    borrowed: tuple[Path, ...]
    """Object stores of the source that the workspace's git reads."""
    own_rules: bool
    """Whether a clone of somebody else may have other bytes, by the user's own attributes or filters."""
    duration_ms: float

    def document(self, *, changes: int | None = 100) -> dict[str, Any]:
        """Convert to JSON values with at most this many changes (None: all): a record need not repeat 100,000 paths."""
        return {
            **path_fields(str(self.path)),
            **path_fields(self.source_root, "source_root"),
            "head_sha": self.head_sha,
            "tree_sha": self.tree_sha,
            "branch": self.branch,
            "files": self.files,
            "bytes": self.bytes,
            "changed": len(self.changed),
            "changes": [change.document() for change in self.changed[:changes]],
            "left_out": [left.document() for left in self.left_out],
            "submodules": [
                {
                    **path_fields(sub.path),
                    "head_sha": sub.head_sha,
                    "tree_sha": sub.tree_sha,
                    "changed": len(sub.changed),
                }
                for sub in self.submodules
            ],
            "borrowed_object_stores": [readable(str(path)) for path in self.borrowed],
            "own_rules": self.own_rules,
            "duration_ms": round(self.duration_ms, 3),
        }
