"""Git's objects by libgit2: patches to make, commits to name.

Only for commands that read a record: the import costs 40 ms, which the start of a run does not pay. Objects are read
by their ids from one store, so nothing else of a repository counts: no configuration, reference, attribute or hook.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pygit2
from pygit2.enums import ConfigLevel, DiffOption, FileMode

from loom.errors import SnapshotError
from loom.snapshot.model import Manifest, readable
from loom.util.untrusted_files import read_regular

for _level in (ConfigLevel.PROGRAMDATA, ConfigLevel.SYSTEM, ConfigLevel.XDG, ConfigLevel.GLOBAL):
    pygit2.settings.search_path[_level] = ""

_LARGEST_SHOWN = 1 << 20


def facts_of_commit(manifest: Manifest) -> dict[str, str]:
    """Describe the commit of a snapshot: sha, subject, author, time. SnapshotError if its repository lacks it."""
    try:
        if not manifest.stores:
            raise ValueError("the manifest names no store")
        found = _repository(manifest.stores[0])[manifest.head_sha]
        if not isinstance(found, pygit2.Commit):
            raise ValueError("it is not a commit")
        time = datetime.fromtimestamp(found.author.time, UTC)
    except (pygit2.GitError, KeyError, ValueError, OverflowError, OSError) as error:
        raise _unreadable(manifest.head_sha, error) from error
    return {
        "sha": manifest.head_sha,
        "subject": found.raw_message.decode("utf-8", "replace").strip().partition("\n")[0],
        "author": found.author.raw_name.decode("utf-8", "replace"),
        "time": f"{time:%Y-%m-%dT%H:%M:%SZ}",
    }


def patch(before: Mapping[str, tuple[int, bytes]], after: Mapping[str, tuple[int, bytes]], scratch: str) -> bytes:
    """Return the patch from the files `before` to those `after`, as `git apply` takes it.

    `scratch`: an empty directory to work in. SnapshotError for a path that no tree can hold.
    """
    repository = _repository(scratch)
    old, new = (_tree(repository, files) for files in (before, after))
    return b"".join(_text(part) for part in old.diff_to_tree(new, flags=DiffOption.SHOW_BINARY) if part is not None)


def _text(part: pygit2.Patch) -> bytes:
    """Return the patch of one file. Where only a binary file's mode changed, libgit2 adds a line that `git apply` refuses."""
    modes, refused, _ = part.data.partition(b"\nBinary files ")
    return modes + b"\n" if refused and part.delta.old_file.id == part.delta.new_file.id else part.data


def first_hunks(
    ids: Mapping[str, tuple[str | None, str | None]], stores: Sequence[str], trees: Sequence[Path], *, most_lines: int
) -> dict[str, tuple[int, list[str]]]:
    """Return, by path, the first line that differs in the later content, and the beginning of the patch.

    `ids`: of the contents before and after, None for no file. `trees`: directories in which a file of such a path may have
    that content, where it was never committed. Leaves out what is not text, or nowhere any more.
    """
    repository = pygit2.Repository()
    database = pygit2.Odb()
    for store in dict.fromkeys(stores):
        with suppress(pygit2.GitError):
            database.add_disk_alternate(store)
    repository.set_odb(database)
    found = {}
    for path, sides in ids.items():
        before, after = (_content(repository, sha, [tree / path for tree in trees]) for sha in sides)
        if before is None or after is None:
            continue
        patch = pygit2.Patch.create_from(before, after, context_lines=2)
        lines = [line for hunk in patch.hunks for line in hunk.lines]
        first = next((line for line in lines if line.origin in "+-"), None)
        if first is not None:
            number = max(first.new_lineno, 1) if first.origin == "+" else _next_line(lines, first)
            texts = [f"{line.origin}{line.raw_content.decode('utf-8', 'replace').rstrip()}" for line in lines]
            found[path] = (number, texts[:most_lines])
    return found


def _next_line(lines: Sequence[pygit2.DiffLine], removed: pygit2.DiffLine) -> int:
    """Return the position where the later content goes on after lines that it lacks."""
    after = lines[lines.index(removed) :]
    return next((line.new_lineno for line in after if line.new_lineno > 0), 1)


def _content(repository: pygit2.Repository, sha: str | None, files: Sequence[Path]) -> bytes | None:
    """Return a file's text; empty for no file; None for what can't be read, is large or is not text."""
    if sha is None:
        return b""
    data: bytes | None = None
    try:
        blob = repository[sha]
        if isinstance(blob, pygit2.Blob) and blob.size <= _LARGEST_SHOWN:
            data = blob.data
    except (pygit2.GitError, KeyError, ValueError):
        data = next((found for file in files if (found := _content_with_id(file, sha)) is not None), None)
    return None if data is None or b"\0" in data else data


def _content_with_id(file: Path, sha: str) -> bytes | None:
    """Return the file's content, if that has this id."""
    try:
        data = read_regular(file, at_most=_LARGEST_SHOWN)
    except (OSError, ValueError):
        return None
    return data if str(pygit2.hash(data)) == sha else None


def _tree(repository: pygit2.Repository, files: Mapping[str, tuple[int, bytes]]) -> pygit2.Tree:
    index = pygit2.Index()
    for path, (mode, content) in files.items():
        name: str = os.fsencode(path)  # type: ignore[assignment]  # as bytes, which need not be UTF-8
        try:
            index.add(pygit2.IndexEntry(name, repository.create_blob(content), FileMode(mode)))
        except pygit2.GitError as error:
            raise SnapshotError(
                f"{readable(path)}: no patch can name it: {error}",
                hint="rename it where the job made it, then pull again",
            ) from error
    found = repository[index.write_tree(repository)]
    assert isinstance(found, pygit2.Tree)
    return found


def _repository(store: str) -> pygit2.Repository:
    """Return a repository in memory, over an object store and its alternates."""
    repository = pygit2.Repository()
    try:
        repository.set_odb(pygit2.Odb(store))
    except pygit2.GitError as error:
        raise _unreadable(store, error) from error
    return repository


def _unreadable(what: str, error: object) -> SnapshotError:
    return SnapshotError(
        f"git's object {what} can't be read: {error}",
        hint="the repository of the run is gone, or has dropped the commit, or has SHA-256 objects",
    )
