"""The identity of a repository, and cache keys."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from loom.errors import CacheError
from loom.plan.model import Cache as Spec
from loom.plan.model import CacheKeyFiles
from loom.plan.origin import origin_of
from loom.storage.selection import PathSelection, UnsafePath
from loom.storage.workspace import DirectoryView
from loom.util import untrusted_files as files
from loom.util.digests import digest_of
from loom.util.paths import Tracked

_LONGEST_KEY = 1000
_LONGEST_LINE = 1 << 14


def project_of(origin: str | None, root: Path) -> str:
    """Return the identity of the repository at `root`, which owns its caches: its location and its origin.

    The location counts because a repository can't choose it; the origin (without scheme, user and `.git`) because
    another repository may later be at the same location. A linked worktree has the identity of its repository.
    """
    repository = os.fsencode(_repository(root.resolve())).decode("utf-8", "backslashreplace")
    name = _name_of(origin)
    return f"{repository} ({name})" if name else repository


def _name_of(origin: str | None) -> str:
    if found := origin_of(origin):
        return f"{found.host.lower()}/{found.path}"
    return (origin or "").removeprefix("file://").strip("/").removesuffix(".git")


def _repository(root: Path) -> Path:
    """Return the main checkout of the linked worktree at `root`, else `root`; both sides must refer to each other."""
    link = root / ".git"
    text = _line_of(link)
    if not text.startswith("gitdir: "):
        return root
    git_dir = (root / text.removeprefix("gitdir: ")).resolve()
    common = git_dir.parent.parent
    if git_dir.parent.name != "worktrees" or common.name != ".git" or Path(_line_of(git_dir / "gitdir")) != link:
        return root
    return common.parent


def _line_of(file: Path) -> str:
    try:
        with files.open_regular(file) as opened:
            return os.fsdecode(opened.read(_LONGEST_LINE)).rstrip("\n")
    except OSError:
        return ""


def key_of(spec: Spec, workspace: Path) -> str:
    """Compute the key of a cache entry, before the job changes anything. CacheError for an invalid one.

    `{prefix, files}` hashes names and contents of the files that match in `workspace`.
    """
    key = spec.key if isinstance(spec.key, str) else _key_of_files(spec.key, workspace)
    for wrong, why in (
        (not key.strip(), "is empty"),
        (len(key) > _LONGEST_KEY, f"is longer than {_LONGEST_KEY} characters"),
        ("\0" in key, "has a NUL byte"),
    ):
        if wrong:
            raise CacheError(
                f"the cache key {key[:80]!r} {why}",
                hint="Use another text, or `key: {files: [...]}`.",
                code="CACHE_KEY_INVALID",
            )
    return key


def _key_of_files(key: CacheKeyFiles, workspace: Path) -> str:
    selection = selection_of(key.files)
    digest = hashlib.sha256()
    found = False
    try:
        for entry, file in DirectoryView(workspace).read(selection, lambda skipped: None):
            if entry.kind == "directory":
                continue
            found = True
            content = digest_of(file).digest() if file is not None else entry.target.encode()
            digest.update(entry.path.encode("utf-8", "surrogateescape") + b"\0" + content + b"\0")
    except OSError as error:
        raise CacheError(f"the files of a cache key can't be read: {error}", code="CACHE_KEY_INVALID") from error
    parts = [part for part in (key.prefix, digest.hexdigest()[:40] if found else "none") if part]
    return "-".join(parts)


def selection_of(paths: Iterable[str], beyond: Tracked | None = None) -> PathSelection:
    try:
        return PathSelection(paths, beyond=beyond)
    except UnsafePath as error:
        raise CacheError(
            f"cache: {error}",
            hint="Name paths inside of the workspace, such as `.cache/pip`.",
            code="CACHE_PATH_INVALID",
        ) from error
