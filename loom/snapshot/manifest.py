"""A manifest is stored in the workspace's `.git`, and untrusted: the receipt has the id that the rebuilt tree must have."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from loom.errors import SnapshotError
from loom.snapshot.model import Manifest
from loom.util import typed
from loom.util.jsons import map_texts
from loom.util.untrusted_files import read_regular

NAME = "loom-snapshot.json"
FILLING = "loom-filling"
"""Marks a workspace as loom's until its manifest exists."""
_FORM = {"kind": "loom-snapshot", "schema_version": "loom.snapshot.v2"}


def write_manifest(git_dir: Path, manifest: Manifest) -> None:
    """Write the manifest, and remove the mark of an incomplete workspace."""
    # A path need not be UTF-8, as JSON is, so the file has all texts with a character for each byte.
    document = _FORM | map_texts(msgspec.to_builtins(manifest), lambda text: os.fsencode(text).decode("latin-1"))
    (git_dir / NAME).write_text(json.dumps(document))
    (git_dir / FILLING).unlink()


def manifest_bytes(workspace: Path, kept: Iterable[str] = (), *, without: Iterable[str] = ()) -> bytes:
    """Return a workspace's manifest, to keep outside the reach of jobs; with `kept` as files that were synced with it have it.

    `without`: submodules whose files its reader has not.
    """
    data = read_regular(workspace / ".git" / NAME)
    if left := [os.fsencode(path).decode("latin-1") for path in without]:
        document = json.loads(data)
        document["submodules"] = [module for module in document["submodules"] if module["path"] not in left]
        data = json.dumps(document).encode()
    if paths := [os.fsencode(path).decode("latin-1") for path in sorted(kept)]:
        data = json.dumps(json.loads(data) | {"kept": paths}).encode()
    return data


def read_manifest(workspace: Path, file: Path | None = None) -> Manifest:
    """Read `file`, or the workspace's own manifest. SnapshotError when unreadable."""
    file = file or workspace / ".git" / NAME
    try:
        document: dict[str, Any] = json.loads(read_regular(file))
        if {key: document[key] for key in _FORM} != _FORM:
            raise ValueError("it has another form")
        return typed.convert(map_texts(document, lambda text: os.fsdecode(text.encode("latin-1"))), Manifest)
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
