"""Files as a checkout in CI writes them: by the repository's attributes and git's defaults, not by the user's `core.autocrlf`
and `core.eol`. Line endings, and the `$Id$` of `ident`.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from loom.snapshot import filters, git
from loom.values import Environ

KEYS = ("core.autocrlf", "core.eol")
DEFAULTS = (("core.autocrlf", "false"), ("core.eol", "lf"))
WORDS = (b"text", b"eol", b"crlf", b"ident")
"""Attributes without these words let a checkout write the bytes that were committed."""
_ID = re.compile(rb"\$Id(?::[^$\n]*)?\$")
_MOST_NAMED = 200
_UNLIKE_TEXT = "\0|\r(?!\n)"
"""What git finds in no file that it takes for text by itself."""
_NO_VALUE = (b"unspecified", b"unset", b"set", b"")
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte-order marks, which a rewritten file keeps."""


def are_defaults(config: Mapping[str, tuple[str, ...]]) -> bool:
    """Return whether git's settings are those of CI."""
    autocrlf, eol = (config.get(key, ("",))[-1].lower() for key in KEYS)
    return autocrlf in ("", "false", "no", "off", "0") and eol in ("", "lf", "native")


def restore(
    environment: Environ, workspace: Path, *, autocrlf: bool, attributes: bytes, changed: Collection[str]
) -> list[str]:
    """Rewrite the workspace's files with the bytes that git would store and check out; return the paths of those that differed.

    `environment` leads git to the workspace and its index. `autocrlf`: files without attributes are converted too.
    `changed`: the files that git would store again.
    """
    found = []
    named = None if b"eol=crlf" in attributes else _containing("\r", environment, workspace)
    encodings = _encodings(environment, workspace) if b"encoding" in attributes else {}
    for path, stored, here, words in _endings(named, environment, workspace):
        as_text = not {"text", "eol=lf", "eol=crlf"}.isdisjoint(words) and "text=auto" not in words
        if "-text" in words or not (as_text or "text=auto" in words or autocrlf):
            continue
        kept_as_stored = stored in ("i/crlf", "i/mixed") and not (as_text and path in changed)
        encoding = encodings.get(path)
        is_text = as_text or encoding is not None or here in ("w/lf", "w/crlf", "w/mixed")
        ending = "\r\n" if "eol=crlf" in words else "\n"
        unlike = "" if as_text or encoding is None else _UNLIKE_TEXT
        if is_text and not kept_as_stored and _rewrite(workspace / path, ending, encoding or "latin-1", unlike):
            found.append(path)
    if b"ident" in attributes:
        found += _restore_ids(environment, workspace)
    return list(dict.fromkeys(found))


def _containing(text: str, environment: Environ, workspace: Path) -> list[str]:
    arguments = ("grep", "-alz", "--untracked", "--no-exclude-standard", "--fixed-strings", "-e", text)
    _, out, _ = git.Running(arguments, environment, cwd=workspace).result(check=False)  # 1: none
    return [os.fsdecode(name) for name in git.nul_list(out)]


def _endings(
    paths: list[str] | None, environment: Environ, workspace: Path
) -> Iterable[tuple[str, str, str, list[str]]]:
    """Yield files (None: all) with their line endings in the index and here, and their attributes."""
    if paths is not None and not paths:
        return
    only = (paths or []) if len(paths or ()) <= _MOST_NAMED else []
    command = ("ls-files", "-z", "--eol", "--cached", "--others", "--", *only)
    for item in git.nul_list(git.run(command, environment, cwd=workspace)):
        about, _, name = item.partition(b"\t")
        stored, here, attributes = about.decode().split(None, 2) if about.count(b" ") else ("", "", "")
        yield os.fsdecode(name), stored, here, attributes.removeprefix("attr/").split()


def _restore_ids(environment: Environ, workspace: Path) -> list[str]:
    there = _containing("$Id", environment, workspace)
    paths = filters.filtered(there, frozenset(), environment, workspace, also=("ident",))
    found = []
    for path, sha in filters.ids_of(paths, environment, workspace)[0].items():
        data = (workspace / path).read_bytes()
        if _write(workspace / path, data, _ID.sub(b"$Id: %s $" % sha.encode(), data)):
            found.append(path)
    return found


def _encodings(environment: Environ, workspace: Path) -> dict[str, str]:
    """Return the encoding in which a checkout writes a file, by path, where that is not the one in which it is stored."""
    listed = git.run(("ls-files", "-z", "--cached", "--others"), environment, cwd=workspace)
    asked = ("check-attr", "-z", "--stdin", "working-tree-encoding")
    fields = git.nul_list(git.run(asked, environment, cwd=workspace, given=listed))
    pairs = zip(fields[::3], fields[2::3], strict=True)
    return {os.fsdecode(path): value.decode("latin-1") for path, value in pairs if value not in _NO_VALUE}


def _rewrite(file: Path, ending: str, encoding: str, unlike: str) -> bool:
    """Rewrite a file with this ending of lines, unless its text has what the expression `unlike` finds."""
    if filters.file_mode(file) is None:
        return False
    data = file.read_bytes()
    mark, codec = next(((mark, codec) for mark, codec in _MARKS if data.startswith(mark)), (b"", encoding))
    if not encoding.upper().startswith(("UTF-16", "UTF-32")):
        mark, codec = b"", encoding
    try:
        text = data.removeprefix(mark).decode(codec)
        if mark + text.encode(codec) != data or (unlike and re.search(unlike, text)):
            return False
        return _write(file, data, mark + text.replace("\r\n", "\n").replace("\n", ending).encode(codec))
    except (LookupError, UnicodeError):
        return False  # git, which can't convert it either, or knows more encodings, stores it as it is


def _write(file: Path, before: bytes, after: bytes) -> bool:
    if after == before:
        return False
    status = file.stat()
    file.write_bytes(after)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    return True
