"""What a snapshot is: plain frozen values."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from msgspec import Struct

from loom.errors import SnapshotError
from loom.status import ExitCode


class SnapshotCanceled(SnapshotError):
    """The cancel flag was set while a workspace was being filled; nothing of it is left."""

    exit_code: ClassVar[int] = ExitCode.INTERRUPTED
    default_code: ClassVar[str] = "SNAPSHOT_CANCELED"


def readable(path: str) -> str:
    """A path fit for a screen or a JSON text: bytes that are no UTF-8, and line breaks, as escapes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return (
        text
        if text.isprintable()
        else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    )


def path_fields(path: str, name: str = "path") -> dict[str, str]:
    """`path` for a JSON document; `<name>_b64` beside it where the text alone could not be turned back into the path."""
    shown = readable(path)
    if shown.encode("utf-8", "surrogateescape") == os.fsencode(path):
        return {name: shown}
    return {name: shown, f"{name}_b64": base64.b64encode(os.fsencode(path)).decode("ascii")}


class Rules(Struct, frozen=True, kw_only=True):
    """What decides, from outside of a work tree, which of its files count, and as which bytes."""

    excludes: bytes = b""
    attributes: bytes = b""
    """The user's own, which count below those of the work tree."""
    own_attributes: bytes = b""
    """The repository's own, which count above them."""
    config: tuple[tuple[str, str], ...] = ()
    raw: tuple[tuple[str, str], ...] = ()
    """(path, id of the bytes as they are) of files that went through a filter of the user's own."""


class Submodule(Struct, frozen=True, kw_only=True):
    """A submodule that is laid out in the workspace, with the proof of its own content."""

    path: str
    head_sha: str
    tree_sha: str
    changed: tuple[Change, ...]
    rules: Rules | None = None
    """None in what earlier versions of loom wrote: those of the outermost repository."""


class Change(Struct, frozen=True, kw_only=True):
    """One path that differs between two trees. Paths are `os.fsdecode`d; ids are git's, all zeros where there is none.

    `kind` is `added`, `modified`, `deleted`, `type_changed` or `mode_changed`.
    """

    path: str
    kind: str
    old_mode: str
    mode: str
    old_sha: str
    sha: str

    def document(self) -> dict[str, Any]:
        return {**path_fields(self.path), "kind": self.kind, "mode": self.mode, "sha": self.sha}


class LeftOut(Struct, frozen=True, kw_only=True):
    """Something of the source that the workspace shows differently or not at all, and why."""

    path: str
    reason: str

    def document(self) -> dict[str, Any]:
        return {**path_fields(self.path), "reason": self.reason}


@dataclass(frozen=True, kw_only=True)
class Source:
    """A repository that can be frozen: what `discover` read. Paths are absolute."""

    root: Path
    git_dir: Path
    """This checkout's own git directory (of a linked worktree: `.git/worktrees/<name>` of the main repository)."""
    common_dir: Path
    objects_dir: Path
    index_path: Path
    head_sha: str
    head_tree_sha: str
    branch: str | None
    """The checked-out branch; None with a detached HEAD."""
    tags: tuple[str, ...]
    """Tags that point at HEAD."""
    origin_url: str | None
    """Without a password, should it hold one."""
    read_only_mounts: tuple[Path, ...]
    """Object stores that a workspace will borrow from: a container shows them read-only at the same path."""
    object_format: str = "sha1"
    shallow: bool = False
    refs: tuple[tuple[str, str, str], ...] = field(default=(), repr=False)
    """(name, id, target of a symbolic ref or "") of branches, remote branches and tags."""
    config: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False, hash=False)
    """git's effective configuration, keys as git prints them."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False, compare=False)
    """What git processes that read this source run with."""
    located: bool = False
    """The environment said where it is (`GIT_DIR`, `GIT_WORK_TREE`)."""
    attributes_tree: str | None = None
    """The tree that git reads .gitattributes from instead of the work tree (`GIT_ATTR_SOURCE`, `attr.tree`)."""

    @property
    def home_environment(self) -> dict[str, str]:
        """For a git process in `root` whose filters are to find what they would find under the user's own git."""
        # What git says is read, so in English; "en" has no catalogue, and leaves the locale to the filter.
        result = {name: value for name, value in self.environment.items() if not name.startswith("GIT_TRACE")}
        result["LANGUAGE"] = "en"
        return result | ({"GIT_DIR": str(self.git_dir), "GIT_WORK_TREE": str(self.root)} if self.located else {})

    @property
    def attributes_config(self) -> list[tuple[str, str]]:
        """`attributes_tree` as git is told of it anywhere else."""
        return [] if self.attributes_tree is None else [("attr.tree", self.attributes_tree)]


class Snapshot(Struct, frozen=True, kw_only=True):
    """A filled workspace.

    `tree_sha` is what `git add -A && git write-tree` would have given in the source, computed from what was copied.
    """

    path: Path
    source_root: Path
    head_sha: str
    tree_sha: str
    branch: str | None
    files: int
    bytes: int
    changed: tuple[Change, ...]
    left_out: tuple[LeftOut, ...]
    submodules: tuple[Submodule, ...]
    borrowed: tuple[Path, ...]
    """Object stores of the source that the workspace's git reads."""
    duration_ms: float

    def document(self, *, changes: int | None = 100) -> dict[str, Any]:
        """The snapshot as JSON values, with so many of its changes (None: all): a record need not repeat 100,000 paths."""
        return {
            **path_fields(str(self.path)),
            **path_fields(str(self.source_root), "source_root"),
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
            "duration_ms": round(self.duration_ms, 3),
        }
