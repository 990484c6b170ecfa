"""Sockets, FIFOs and devices in a checkout, of which git says nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from loom.snapshot import copy_files, git
from loom.snapshot.index import directories, lstat
from loom.snapshot.model import Source
from loom.util.special_files import special_kind


def specials(
    source: Source, found: copy_files.Findings, known: Iterable[str], *, rules_in_index: bool
) -> dict[str, str]:
    """path -> kind of those that the copy met, and of those in directories that hold none of the `known` files."""
    special = {path: kind for path, mode in found.special if (kind := special_kind(mode))}
    above = directories(known)
    unknown = [path for path in found.subdirectories if path not in above and not _is_git(path)]
    # Level by level, so that nothing below an ignored directory (`node_modules/*`) is looked at.
    named: dict[str, str] = {}
    while special or unknown:
        passed_over = ignored(source, [*special, *unknown], rules_in_index=rules_in_index)
        named.update((path, kind) for path, kind in special.items() if path not in passed_over)
        below = [_look_into(source.root, path) for path in unknown if path not in passed_over]
        special = {path: kind for found_there, _ in below for path, kind in found_there}
        unknown = [path for _, inside in below for path in inside]
    return named


def ignored(source: Source, paths: list[str], *, rules_in_index: bool) -> set[str]:
    """Those of the untracked paths that the user's rules ignore.

    `rules_in_index`: a sparse checkout may have a .gitignore there only. Looking there, too, takes git a time that grows
    with the paths and with the index.
    """
    process = git.Running(
        ("check-ignore", "-z", "--stdin", *(() if rules_in_index else ("--no-index",))),
        rules_environment(source),
        cwd=source.root,
        given=git.nul_joined([f"./{path}" for path in paths]),
    )
    _, out, _ = process.result(check=False)  # 1: none of them
    return {os.fsdecode(path)[2:] for path in git.nul_list(out)}


def rules_environment(source: Source) -> dict[str, str]:
    """For check-ignore, which knows no literal pathspecs: "./" in front keeps a name like ":(top)" a name."""
    here = git.environment_for(
        source.environment,
        keep_config=True,
        repository=source.repository,
        index=source.index_path,
    )
    return {name: value for name, value in here.items() if name != "GIT_LITERAL_PATHSPECS"}


def _is_git(path: str) -> bool:
    return path == ".git" or path.endswith("/.git")


def _look_into(root: Path, path: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Sockets, FIFOs and devices (path, kind), and directories, in one that git lists nothing of."""
    special: list[tuple[str, str]] = []
    directories: list[str] = []
    try:
        with os.scandir(root / path) as entries:
            inside = list(entries)
    except OSError:
        return [], []
    if any(entry.name == ".git" for entry in inside):
        return [], []  # a repository of its own
    for entry in inside:
        if entry.is_dir(follow_symlinks=False):
            directories.append(f"{path}/{entry.name}")
        elif not entry.is_file(follow_symlinks=False) and not entry.is_symlink():
            status = lstat(Path(entry.path))
            if status is not None and (kind := special_kind(status.st_mode)):
                special.append((f"{path}/{entry.name}", kind))
    return special, directories
