"""The data with which `verify` rebuilds a snapshot's tree: the commit and its differences. Stored in the workspace's
`.git`.

It is untrusted: the rebuilt tree must have the id in the receipt.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from loom.errors import SnapshotError
from loom.snapshot.model import Change, LeftOut, Rules, Submodule
from loom.util.untrusted_files import read_regular

NAME = "loom-snapshot.json"
FILLING = "loom-filling"
"""Marks a workspace as loom's until its manifest exists."""
_FORM = {"kind": "loom-snapshot", "schema_version": "loom.snapshot.v2"}
_TEXT = "[^\0]*"
_SHA = "[0-9a-f]{40}|[0-9a-f]{64}"
_KEY = rf"[A-Za-z][A-Za-z0-9-]*(\.{_TEXT})?\.[A-Za-z][A-Za-z0-9-]*"
_INSIDE = rf"(?!(.*/)?\.{{0,2}}(/|\Z)){_TEXT}"
"""A path below the workspace."""


class Manifest(Struct, frozen=True, kw_only=True):
    source_root: str
    object_format: str
    head_sha: str
    tree_sha: str
    branch: str | None
    changed: tuple[Change, ...]
    rules: Rules
    stores: tuple[str, ...]
    submodules: tuple[Submodule, ...]
    left_out: tuple[LeftOut, ...]


def write_manifest(git_dir: Path, manifest: Manifest) -> None:
    """Also remove the mark of an incomplete workspace."""
    document = _FORM | _recoded(msgspec.to_builtins(manifest), lambda text: os.fsencode(text).decode("latin-1"))
    (git_dir / NAME).write_text(json.dumps(document))
    (git_dir / FILLING).unlink()


def manifest_bytes(workspace: Path) -> bytes:
    """Return a workspace's manifest, to keep outside the reach of jobs."""
    return read_regular(workspace / ".git" / NAME)


def read_manifest(workspace: Path, file: Path | None = None) -> Manifest:
    """Read `file`, or the workspace's own manifest. SnapshotError when unreadable."""
    file = file or workspace / ".git" / NAME
    try:
        document: dict[str, Any] = json.loads(read_regular(file))
        if {key: document[key] for key in _FORM} != _FORM:
            raise ValueError("it has another form")
        manifest = msgspec.convert(_recoded(document, lambda text: os.fsdecode(text.encode("latin-1"))), Manifest)
        _check(manifest)
        return manifest
    except FileNotFoundError as error:
        raise SnapshotError(
            f"{workspace}: not one of loom's workspaces, or a job removed its .git",
            hint="name a workspace that `loom snapshot` or `loom run` made",
            code="NOT_A_WORKSPACE",
        ) from error
    except PermissionError as error:
        raise SnapshotError(
            f"{file}: {error.strerror}", hint="its owner may read it", code="MANIFEST_UNREADABLE"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise SnapshotError(
            f"{file}: not a snapshot's manifest any more: {error}",
            hint="what the snapshot was can't be told without it; take a new one",
            code="MANIFEST_UNREADABLE",
        ) from error


def _recoded(value: Any, change: Callable[[str], str]) -> Any:
    """Change each text: a path need not be UTF-8, as JSON is, so the file has all texts with a character for each byte."""
    if isinstance(value, dict):
        return {key: _recoded(one, change) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_recoded(one, change) for one in value]
    return change(value) if isinstance(value, str) else value


def _check(manifest: Manifest) -> None:
    """Raise ValueError for text that could be a ref or an option for git, or lead out of the workspace."""
    parts: tuple[Manifest | Submodule, ...] = (manifest, *manifest.submodules)
    changes = [change for part in parts for change in part.changed]
    config = [pair for part in parts for pair in part.rules.config]
    raw = [pair for part in parts for pair in part.rules.raw]
    left_out = [text for left in manifest.left_out for text in (left.path, left.reason)]
    expected: Mapping[str, Iterable[str]] = {
        _SHA: [sha for one in (*parts, *changes) for sha in _ids(one)] + [sha for _, sha in raw],
        "[0-7]{6}": [mode for change in changes for mode in (change.old_mode, change.mode)],
        "sha1|sha256": [manifest.object_format],
        _KEY: [key for key, _ in config],
        _INSIDE: [*(change.path for change in changes), *(submodule.path for submodule in manifest.submodules)],
        _TEXT: [
            *(manifest.source_root, manifest.branch or "", *manifest.stores, *left_out),
            *(path for path, _ in raw),
            *(value for _, value in config),
        ],
    }
    for pattern, texts in expected.items():
        for text in texts:
            if not re.fullmatch(pattern, text, re.DOTALL):
                raise ValueError(f"{text!r} can't stand there")


def _ids(one: Manifest | Submodule | Change) -> tuple[str, str]:
    return (one.old_sha, one.sha) if isinstance(one, Change) else (one.head_sha, one.tree_sha)
