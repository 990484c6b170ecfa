"""Programs that .gitattributes sends files through (git-lfs, git-crypt, the user's own): which, and what they make of a file."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from loom.snapshot import git

_AT_ONCE = 8
_RUNS = (".clean", ".process")
_CONVERTING = ("filter", "text", "crlf", "eol", "ident", "working-tree-encoding")

# What git-lfs would store for a file, for users whose configuration names it but who have not installed it. A pointer
# stays as it is; an empty file has none.
_LFS_CLEAN = (
    't=$(mktemp) && cat >"$t" && if [ ! -s "$t" ] || head -c 42 "$t" | grep -q "^version https://git-lfs.github.com/spec/"; '
    'then cat "$t"; else printf "version https://git-lfs.github.com/spec/v1\\noid sha256:%s\\nsize %s\\n" '
    '"$(sha256sum <"$t" | cut -c1-64)" "$(wc -c <"$t" | tr -d " ")"; fi; e=$?; rm -f "$t"; exit $e'
)


def settings(config: Mapping[str, tuple[str, ...]], environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """What git is to be told of filters where it does not read the source's configuration."""
    result = [(key, values[-1]) for key, values in config.items() if key.startswith("filter.")]
    uses_lfs = "filter.lfs.clean" in config or "filter.lfs.process" in config
    if uses_lfs and shutil.which("git-lfs", path=environ.get("PATH", os.defpath)) is None:
        result = [(key, value) for key, value in result if not key.startswith("filter.lfs.")]
        result.append(("filter.lfs.clean", _LFS_CLEAN))
    return result


def without(keys: Iterable[str]) -> list[tuple[str, str]]:
    """Settings that make git take every file as it is on disk, where these are the keys of its configuration."""
    return [(key, "false" if key.endswith(".required") else "") for key in keys if key.startswith("filter.")]


def at_home(config: Iterable[tuple[str, str]]) -> frozenset[str]:
    """Filters that have to run in the source: they may read its configuration, keys in its `.git`, files that it ignores.

    Not git-lfs, which needs nothing of the kind and would store the file in the source.
    """
    names = {driver_of(key) for key, value in config if key.endswith(_RUNS) and value}
    return frozenset(names - {"", "lfs"})


def driver_of(key: str) -> str:
    """Which filter a key of git's configuration is about; empty when about none."""
    return key.removeprefix("filter.").rpartition(".")[0] if key.startswith("filter.") else ""


def failed(said: str) -> bool:
    """Whether what git said tells of a filter that can't run. One that speaks git's protocol, and ends, is not named."""
    return any(word in said for word in ("filter", "subprocess", "remote end hung up"))


def complaints(said: str) -> list[str]:
    """Lines about filters that failed and need not work: git went on with the file as it is."""
    lines = {line for line in said.splitlines() if "external filter" in line or "subprocess" in line}
    return sorted(line.removeprefix("error: ") for line in lines)


def filtered(
    paths: Sequence[str], drivers: frozenset[str], environment: Mapping[str, str], workspace: Path
) -> dict[str, tuple[str, ...]]:
    """Those of the workspace's `paths` that are files and go through one of these filters, with all that converts them."""
    if not paths or not drivers:
        return {}
    found = conversions(paths, environment, workspace)
    return {path: how for path, how in found.items() if how[0] in drivers and _mode(workspace / path) is not None}


def conversions(paths: Iterable[str], environment: Mapping[str, str], place: Path) -> dict[str, tuple[str, ...]]:
    """The values of `_CONVERTING` for each path, as the attributes in `place` have them."""
    given = git.nul_joined(paths)
    fields = git.nul_list(git.run(("check-attr", "-z", "--stdin", *_CONVERTING), environment, cwd=place, given=given))
    one = 3 * len(_CONVERTING)
    return {
        os.fsdecode(fields[at]): tuple(os.fsdecode(value) for value in fields[at + 2 : at + one : 3])
        for at in range(0, len(fields), one)
    }


def ids(
    paths: Iterable[str], workspace: Path, environment: Mapping[str, str], source: Path
) -> tuple[list[tuple[str, str, str]], str]:
    """(path, mode, id) of what git in `source` would store for the workspace's files, and what it said meanwhile.

    Nothing is stored. GitFailed when a filter that is required fails.
    """
    entries, said = [], ""
    for path, process in _hashing(paths, workspace, environment, source):
        _, out, complaint = process.result()
        entries.append((path, _mode(workspace / path) or "100644", out.decode().strip()))
        said += complaint
    return entries, said


def _hashing(
    paths: Iterable[str], workspace: Path, environment: Mapping[str, str], source: Path
) -> Iterator[tuple[str, git.Running]]:
    """One process a file, since only its standard input can be other bytes than those in the source; a few side by side."""
    running: list[tuple[str, git.Running]] = []
    try:
        for path in paths:
            with (workspace / path).open("rb") as content:
                arguments = ("hash-object", "--stdin", f"--path={path}")
                running.append((path, git.Running(arguments, environment, cwd=source, stdin=content)))
            if len(running) == _AT_ONCE:
                yield running.pop(0)
        while running:
            yield running.pop(0)
    finally:
        for _, process in running:
            process.stop()


def _mode(path: Path) -> str | None:
    """As git has it; None for what is no file."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return None
    return ("100755" if mode & 0o100 else "100644") if stat.S_ISREG(mode) else None
