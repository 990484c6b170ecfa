"""Which tree a workspace is: `git add -A && git write-tree`, told only what may have changed.

The files that the source's index vouches for keep the index's ids; every other file is hashed from the bytes in the
workspace. Nothing is stored: blobs are only hashed, trees go into a scratch store.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loom.snapshot import git
from loom.snapshot.model import Change

_ZERO_MODE = "000000"

# What git-lfs would store for a file, for users whose configuration names it but who have not installed it. A pointer
# stays as it is; an empty file has none.
_LFS_CLEAN = (
    't=$(mktemp) && cat >"$t" && if [ ! -s "$t" ] || head -c 42 "$t" | grep -q "^version https://git-lfs.github.com/spec/"; '
    'then cat "$t"; else printf "version https://git-lfs.github.com/spec/v1\\noid sha256:%s\\nsize %s\\n" '
    '"$(sha256sum <"$t" | cut -c1-64)" "$(wc -c <"$t" | tr -d " ")"; fi; e=$?; rm -f "$t"; exit $e'
)


@dataclass
class Edits:
    """How a tree differs from what an index says."""

    removed: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    """To be hashed (in the workspace by now), unless their stat data match the index."""
    reset: list[tuple[str, str, str]] = field(default_factory=list)
    """(path, mode, id): entries whose stat data prove nothing any more."""
    gitlinks: list[tuple[str, str]] = field(default_factory=list)
    """(path, commit)."""

    def __bool__(self) -> bool:
        return bool(self.removed or self.present or self.reset or self.gitlinks)


def hashing_config(config: Mapping[str, tuple[str, ...]], environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """The source's settings that decide which bytes git stores for a file."""
    result = [
        (key, values[-1])
        for key, values in config.items()
        if key.startswith("filter.") or key in ("core.autocrlf", "core.eol", "core.bigfilethreshold", "core.ignorecase")
    ]
    # Git would refuse to add what it could not restore byte for byte; here only the id is wanted.
    result.append(("core.safecrlf", "false"))
    if "filter.lfs.clean" in config or "filter.lfs.process" in config:
        result += lfs_config(environ)
    return result


def lfs_config(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    if shutil.which("git-lfs", path=environ.get("PATH", os.defpath)):
        return []
    return [("filter.lfs.process", ""), ("filter.lfs.clean", _LFS_CLEAN), ("filter.lfs.required", "false")]


def index_lines(edits: Edits, zero_sha: str) -> bytes:
    """`edits` but for `present`, as `git update-index -z --index-info` reads them."""
    lines = [f"0 {zero_sha}\t{path}" for path in edits.removed]
    lines += [f"{mode} {sha} 0\t{path}" for path, mode, sha in edits.reset]
    lines += [f"160000 {sha} 0\t{path}" for path, sha in edits.gitlinks]
    return b"".join(os.fsencode(line) + b"\0" for line in lines)


def nul_joined(paths: Sequence[str]) -> bytes:
    return b"".join(os.fsencode(path) + b"\0" for path in paths)


def write_tree(environment: Mapping[str, str], workspace: Path, edits: Edits, *, zero_sha: str) -> str:
    """The tree of the index that `environment` names, after `edits`; that index is rewritten."""
    if lines := index_lines(edits, zero_sha):
        git.run(("update-index", "-z", "--index-info"), environment, cwd=workspace, given=lines)
    if edits.present:
        git.run(
            ("update-index", "--add", "--remove", "--info-only", "-z", "--stdin"),
            environment,
            cwd=workspace,
            given=nul_joined(edits.present),
        )
    return git.run(("write-tree", "--missing-ok"), environment, cwd=workspace).decode().strip()


def compare(environment: Mapping[str, str], workspace: Path, old: str, new: str | None = None) -> tuple[Change, ...]:
    """What differs between the tree `old` and the index that `environment` names, or the tree `new`, by path."""
    command: tuple[str, ...]
    if new is None:
        command = ("diff-index", "--cached", "--raw", "-z", "--no-renames", "--ignore-submodules=none", old)
    else:
        command = ("diff-tree", "-r", "--raw", "-z", "--no-renames", "--ignore-submodules=none", old, new)
    return parse_raw(git.run((*command, "--"), environment, cwd=workspace))


def parse_raw(data: bytes) -> tuple[Change, ...]:
    items = git.nul_list(data)
    result = []
    for meta, path in zip(items[::2], items[1::2], strict=True):
        old_mode, mode, old_sha, sha, status = meta.decode().lstrip(":").split(" ")
        result.append(
            Change(
                path=os.fsdecode(path),
                kind=_kind(status[0], old_mode, mode, old_sha, sha),
                old_mode=old_mode,
                mode=mode,
                old_sha=old_sha,
                sha=sha,
            )
        )
    return tuple(result)


def _kind(status: str, old_mode: str, mode: str, old_sha: str, sha: str) -> str:
    if status == "A" or old_mode == _ZERO_MODE:
        return "added"
    if status == "D" or mode == _ZERO_MODE:
        return "deleted"
    if status == "T":
        return "type_changed"
    return "mode_changed" if old_sha == sha and old_mode != mode else "modified"
