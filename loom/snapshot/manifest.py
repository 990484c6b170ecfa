"""The data with which `verify` rebuilds a snapshot's tree: the commit and its differences. Stored in the workspace's
`.git`.

It is untrusted: the rebuilt tree must have the id in the receipt.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import Struct

from loom.errors import SnapshotError
from loom.snapshot.model import Change, LeftOut, Rules, Submodule
from loom.util.untrusted_files import read_regular

NAME = "loom-snapshot.json"
FILLING = "loom-filling"
"""Marks a workspace as loom's until its manifest exists."""
KIND = "loom-snapshot"
SCHEMA_VERSION = "loom.snapshot.v1"


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


def _text(path: str) -> str:
    return base64.b64encode(os.fsencode(path)).decode("ascii")


def _path(text: str) -> str:
    decoded = os.fsdecode(base64.b64decode(text))
    if "\0" in decoded:
        raise ValueError("a NUL in a path or a value")
    return decoded


def _change(change: Change) -> list[str]:
    return [_text(change.path), change.kind, change.old_mode, change.mode, change.old_sha, change.sha]


def _read_change(fields: list[str]) -> Change:
    path, kind, old_mode, mode, old_sha, sha = fields
    return Change(
        path=_inside(_path(path)),
        kind=kind,
        old_mode=_mode(old_mode),
        mode=_mode(mode),
        old_sha=_id(old_sha),
        sha=_id(sha),
    )


def _rules(rules: Rules) -> dict[str, Any]:
    return {
        "excludes": base64.b64encode(rules.excludes).decode("ascii"),
        "attributes": base64.b64encode(rules.attributes).decode("ascii"),
        "own_attributes": base64.b64encode(rules.own_attributes).decode("ascii"),
        "config": [[key, _text(value)] for key, value in rules.config],
        "raw": [[_text(path), sha] for path, sha in rules.raw],
    }


def _read_rules(document: Mapping[str, Any]) -> Rules:
    return Rules(
        excludes=base64.b64decode(document["excludes"]),
        # Workspaces of earlier versions have none.
        attributes=base64.b64decode(document.get("attributes", "")),
        own_attributes=base64.b64decode(document.get("own_attributes", "")),
        config=tuple((_key(key), _path(value)) for key, value in document["config"]),
        raw=tuple((_path(path), _id(sha)) for path, sha in document.get("raw", ())),
    )


def _matching(pattern: str, what: str, text: str) -> str:
    if not re.fullmatch(pattern, text):
        raise ValueError(f"{text!r} is no {what}")
    return text


# Other text could be a ref or an option for git.
_id = partial(_matching, "[0-9a-f]{40}|[0-9a-f]{64}", "object's id")
_mode = partial(_matching, "[0-7]{6}", "mode of a file")
_key = partial(_matching, r"[A-Za-z][A-Za-z0-9-]*(\..*)?\.[A-Za-z][A-Za-z0-9-]*", "key of git's configuration")
_format = partial(_matching, "sha1|sha256", "format of objects")


def _inside(path: str) -> str:
    if path.startswith("/") or not set(path.split("/")).isdisjoint(("", ".", "..")):
        raise ValueError(f"{path!r} is not a path in a workspace")
    return path


def write_manifest(git_dir: Path, manifest: Manifest) -> None:
    """Also remove the mark of an incomplete workspace."""
    document = {
        "kind": KIND,
        "schema_version": SCHEMA_VERSION,
        "source_root": _text(manifest.source_root),
        "object_format": manifest.object_format,
        "head_sha": manifest.head_sha,
        "tree_sha": manifest.tree_sha,
        "branch": manifest.branch and _text(manifest.branch),
        "changed": [_change(change) for change in manifest.changed],
        **_rules(manifest.rules),
        "stores": [_text(store) for store in manifest.stores],
        "submodules": [
            [
                _text(sub.path),
                sub.head_sha,
                sub.tree_sha,
                [_change(change) for change in sub.changed],
                sub.rules and _rules(sub.rules),
            ]
            for sub in manifest.submodules
        ],
        "left_out": [[_text(left.path), left.reason] for left in manifest.left_out],
    }
    (git_dir / NAME).write_text(json.dumps(document, ensure_ascii=True))
    (git_dir / FILLING).unlink()


def manifest_bytes(workspace: Path) -> bytes:
    """Return a workspace's manifest, to keep outside the reach of jobs."""
    return read_regular(workspace / ".git" / NAME)


def read_manifest(workspace: Path, file: Path | None = None) -> Manifest:
    """Read `file`, or the workspace's own manifest. SnapshotError when unreadable."""
    file = file or workspace / ".git" / NAME
    try:
        document: dict[str, Any] = json.loads(read_regular(file))
        if document["kind"] != KIND:
            raise ValueError(document["kind"])
        return Manifest(
            source_root=_path(document["source_root"]),
            object_format=_format(document["object_format"]),
            head_sha=_id(document["head_sha"]),
            tree_sha=_id(document["tree_sha"]),
            branch=document["branch"] and _path(document["branch"]),
            changed=tuple(_read_change(fields) for fields in document["changed"]),
            rules=_read_rules(document),
            stores=tuple(_path(store) for store in document["stores"]),
            submodules=tuple(
                Submodule(
                    path=_inside(_path(path)),
                    head_sha=_id(head),
                    tree_sha=_id(tree),
                    changed=tuple(_read_change(fields) for fields in changed),
                    rules=_read_rules(rules[0]) if rules and rules[0] else None,
                )
                for path, head, tree, changed, *rules in document["submodules"]
            ),
            left_out=tuple(LeftOut(path=_path(path), reason=reason) for path, reason in document["left_out"]),
        )
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
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SnapshotError(
            f"{file}: not a snapshot's manifest any more: {error}",
            hint="what the snapshot was can't be told without it; take a new one",
            code="MANIFEST_UNREADABLE",
        ) from error
