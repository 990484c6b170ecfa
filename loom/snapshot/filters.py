"""The filter programs of .gitattributes (git-lfs, git-crypt, the user's own), and their effect on files."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from loom.snapshot import git
from loom.snapshot.index import lstat, same_content
from loom.snapshot.model import Rules, Source
from loom.snapshot.repository import as_under_git, as_written
from loom.values import Environ

_RUNS = (".clean", ".process")
HIDING = ("ident", "working-tree-encoding")
"""Attributes that make git store other bytes than those on disk."""
NAMED_IN_ATTRIBUTES = (b"filter", b"ident", b"encoding")
"""Attributes without these words never change a file's bytes."""
_WRITING = (*NAMED_IN_ATTRIBUTES, b"eol", b"crlf", b"-text")
"""The user's own attributes without these words leave a workspace's files as a clone has them."""

_POINTER = b"version https://git-lfs.github.com/spec/"

# The result of git-lfs for users who configured it without installing it. Pointers stay; an empty file has no pointer.
_LFS_CLEAN = (
    't=$(mktemp) && cat >"$t" && if [ ! -s "$t" ] || head -c 42 "$t" | grep -q "^version https://git-lfs.github.com/spec/"; '
    'then cat "$t"; else printf "version https://git-lfs.github.com/spec/v1\\noid sha256:%s\\nsize %s\\n" '
    '"$(sha256sum <"$t" | cut -c1-64)" "$(wc -c <"$t" | tr -d " ")"; fi; e=$?; rm -f "$t"; exit $e'
)


def settings(config: Mapping[str, tuple[str, ...]], environ: Environ) -> list[tuple[str, str]]:
    """Filter settings for git processes that do not read the source's configuration."""
    result = [(key, values[-1]) for key, values in config.items() if key.startswith("filter.")]
    drivers = _lfs_drivers(result)
    if drivers and not _has_lfs(environ):
        result = [(key, value) for key, value in result if driver_of(key) not in drivers]
        result += [(f"filter.{name}.clean", _LFS_CLEAN) for name in drivers]
    return result


def lfs_settings(given: Sequence[tuple[str, str]], environ: Environ) -> list[tuple[str, str]]:
    """Replace the filters that are git-lfs by self-contained ones."""
    drivers = _lfs_drivers(given)
    if not _has_lfs(environ):
        return [(f"filter.{name}.clean", _LFS_CLEAN) for name in drivers]
    return [
        (f"filter.{name}.{key}", value)
        for name in drivers
        for key, value in (("clean", "git-lfs clean -- %f"), ("process", "git-lfs filter-process"))
    ]


def _lfs_drivers(given: Sequence[tuple[str, str]]) -> list[str]:
    return sorted({driver_of(key) for key, value in given if key.endswith(_RUNS) and _is_lfs(value)} - {""})


def _has_lfs(environ: Environ) -> bool:
    return shutil.which("git-lfs", path=environ.get("PATH", os.defpath)) is not None


def without(keys: Iterable[str]) -> list[tuple[str, str]]:
    """Return settings that disable all filters with keys in this configuration."""
    return [(key, "false" if key.endswith(".required") else "") for key in keys if key.startswith("filter.")]


def source_bound(config: Iterable[tuple[str, str]]) -> frozenset[str]:
    """Return filters that must run in the source: they may read its configuration, `.git` or ignored files.

    Except git-lfs, which needs none of these and would store the file in the source.
    """
    named = {key: value for key, value in config if key.endswith(_RUNS)}  # the last one wins
    return frozenset(driver_of(key) for key, value in named.items() if value and not _is_lfs(value))


def are_own(rules: Rules) -> bool:
    """Return whether attributes or filters that a clone of somebody else lacks may decide on the bytes of files."""
    own = rules.attributes + rules.own_attributes
    return any(word in own for word in _WRITING) or bool(rules.raw and source_bound(rules.config))


def _is_lfs(command: str) -> bool:
    return (
        command == _LFS_CLEAN or command.split(" ")[0].rpartition("/")[2] == "git-lfs" or command.startswith("git lfs ")
    )


def driver_of(key: str) -> str:
    """Return the filter that a configuration key belongs to; empty if none."""
    return key.removeprefix("filter.").rpartition(".")[0] if key.startswith("filter.") else ""


def failed(stderr: str) -> bool:
    """Return whether git's messages report a filter that can't run; one that speaks its protocol is not named."""
    return any(word in stderr for word in ("filter", "subprocess", "remote end hung up"))


def complaints(stderr: str) -> list[str]:
    """Select messages about failed optional filters: git used the file unchanged."""
    lines = {line for line in as_written(stderr).splitlines() if line.startswith("error: ")}
    return sorted(line.removeprefix("error: ") for line in lines if "external filter" in line or "subprocess" in line)


def filtered(
    paths: Sequence[str],
    drivers: frozenset[str],
    environment: Environ,
    workspace: Path,
    *,
    also: Sequence[str] = (),
) -> list[str]:
    """Select regular files among the workspace's `paths` with one of these filters, or with an attribute of `also`."""
    if not paths or not (drivers or also):
        return []
    given = git.nul_joined(paths)
    fields = git.nul_list(
        git.run(("check-attr", "-z", "--stdin", "filter", *also), environment, cwd=workspace, given=given)
    )
    found = {
        os.fsdecode(path)
        for path, name, value in zip(fields[::3], fields[1::3], fields[2::3], strict=True)
        if (os.fsdecode(value) in drivers if name == b"filter" else value not in (b"unspecified", b"unset"))
    }
    return [path for path in paths if path in found and file_mode(workspace / path) is not None]


def lfs_pointers(paths: Sequence[str], environment: Environ, workspace: Path) -> list[str]:
    """Select the files of git-lfs that have no content, only the pointer to it."""

    def is_pointer(path: str) -> bool:
        with (workspace / path).open("rb") as file:
            return file.read(len(_POINTER)) == _POINTER

    return [path for path in filtered(paths, frozenset({"lfs"}), environment, workspace) if is_pointer(path)]


def ids_at_home(
    paths: Sequence[str], workspace: Path, source: Source, config: Sequence[tuple[str, str]]
) -> tuple[list[tuple[str, str, str]], str]:
    """Return (path, mode, id) as git in the source would store the workspace's files, and its messages.

    Stores nothing. GitFailed when a required filter fails.
    """
    config = as_under_git(source.repository, config) if source.repository.trusted else config
    environment = git.with_config(source.home_environment, config)
    there = [path for path in paths if file_mode(source.root / path) is not None]
    try:
        # In one process, like `git add`: filters may start slowly or not support concurrency.
        found, stderr = ids_of(there, environment, source.root)
    except git.GitFailed as error:
        if failed(error.stderr):
            raise
        found, stderr = {}, ""  # one of them vanished
    entries = []
    for path in paths:
        if path not in found or not same_content(source.root / path, workspace / path):
            with (workspace / path).open("rb") as content:  # edited since: the copy counts
                arguments = ("hash-object", "--stdin", f"--path={path}")
                _, out, more = git.Running(arguments, environment, cwd=source.root, stdin=content).result()
            found[path] = out.decode().strip()
            stderr += more
        entries.append((path, file_mode(workspace / path) or "100644", found[path]))
    return entries, stderr


def ids_of(paths: Sequence[str], environment: Environ, directory: Path, *switches: str) -> tuple[dict[str, str], str]:
    """Return the ids of the files as git would store them (`--no-filters`: of their bytes as they are), and its messages."""
    if not paths:
        return {}, ""
    # Quoted, because git would misread paths with line breaks.
    lines = (git.c_quoted(path) if path.startswith('"') or "\n" in path or "\r" in path else path for path in paths)
    given = b"".join(os.fsencode(line) + b"\n" for line in lines)
    process = git.Running(("hash-object", "--stdin-paths", *switches), environment, cwd=directory, given=given)
    _, out, stderr = process.result()
    return dict(zip(paths, out.decode().split(), strict=True)), stderr


def file_mode(path: Path) -> str | None:
    """Return git's mode; None if not a file."""
    status = lstat(path)
    if status is None or not stat.S_ISREG(status.st_mode):
        return None
    return "100755" if status.st_mode & 0o100 else "100644"
