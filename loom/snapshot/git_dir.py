"""A `.git` made by hand: what a fresh clone of the source would have, in 0.2 to 0.6 of the time of `git clone --no-checkout`.

libgit2 takes as long, and links the user's own objects; `git worktree add` writes into the user's repository.
"""

from __future__ import annotations

import codecs
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from loom.cancel import Cancel
from loom.errors import SnapshotError
from loom.plan.clone import Clone
from loom.snapshot import copy_files
from loom.snapshot.copy_workers import CopyPool
from loom.snapshot.git import quoted_store
from loom.snapshot.history import boundary_of
from loom.snapshot.manifest import manifest_bytes, read_manifest
from loom.snapshot.model import Rules, Source, object_format
from loom.snapshot.names import is_refused
from loom.snapshot.repository import config_text
from loom.snapshot.source import store_paths, stores_to_borrow
from loom.util.paths import RUNTIME
from loom.util.untrusted_files import open_regular, read_regular

RUNTIME_RULE = f"/{RUNTIME}\n".encode()
"""The record is never part of what git sees in a workspace."""

ATTRIBUTES_BELOW = "info/attributes-below"
"""In a git directory: the user's own attributes."""

_CHECKSUMS = (20, 32)
"""Bytes at the end of an index, by object format."""
_OBJECTS = re.compile("[0-9a-f]{2}")
_OBJECT = re.compile("[0-9a-f]{38}(?:[0-9a-f]{24})?")
# `git maintenance` makes loose-... ones.
_PACK = re.compile(r"(?:pack|loose)-[0-9a-f]{40}(?:[0-9a-f]{24})?\.(?:pack|idx|rev|mtimes|promisor)")

AS_LAID_OUT = (
    ("core.fileMode", "true"),
    ("core.symlinks", "true"),
    ("core.checkStat", "minimal"),
    ("core.trustctime", "false"),
    ("core.splitIndex", "false"),
    ("core.sparseCheckout", "false"),
)
"""The settings of a workspace's git beyond the source's."""

_FETCH = "+refs/heads/*:refs/remotes/origin/*"
# Settings of the source by which git reads the same bytes differently.
_CARRIED = ("core.ignorecase", "core.precomposeunicode", "core.quotepath", "diff.ignoresubmodules")


def lay_out(source: Source, git_dir: Path, *, work_tree: str | None, rules: Rules) -> None:
    """Write everything but the index and the objects. `work_tree` is core.worktree of a submodule, relative to `git_dir`."""
    for name in ("objects/pack", "objects/info", "refs/heads", "refs/tags", "info"):
        (git_dir / name).mkdir(parents=True, exist_ok=True)
    (git_dir / "HEAD").write_text(f"{source.head_sha}\n")
    # Git reads a relative path from the top of the work tree, where a submodule's `.git` is a file.
    way = ".git" if work_tree is None else os.path.relpath(git_dir, git_dir / work_tree)
    below = f"{way}/{ATTRIBUTES_BELOW}" if rules.attributes else None
    (git_dir / "config").write_bytes(os.fsencode(config_text(_config(source, work_tree=work_tree, attributes=below))))
    _write_refs(source, git_dir)
    if boundary := boundary_of(source) if source.boundary is None else source.boundary:
        (git_dir / "shallow").write_text("".join(f"{sha}\n" for sha in sorted(boundary)))
    (git_dir / "info" / "exclude").write_bytes(rules.excludes + RUNTIME_RULE)
    if rules.attributes:
        (git_dir / ATTRIBUTES_BELOW).write_bytes(rules.attributes)
    if rules.own_attributes:
        (git_dir / "info" / "attributes").write_bytes(rules.own_attributes)


def reduction(source: Source, workspace: Path, clone: Clone | None) -> str:
    """Return a script for a copy of `workspace`, which has `clone`, that makes it the source as it is cloned.

    It runs where there may be no git. Empty: nothing is to do. `reduced_manifest` is then the copy's.
    """
    wanted = source.clone
    if wanted is None or wanted == clone:
        return ""
    manifest = read_manifest(workspace)
    below_git = f".git/{ATTRIBUTES_BELOW}" if manifest.rules.attributes else None
    files = {"config": config_text(_config(source, work_tree=None, attributes=below_git))}
    lines = []
    if clone is None or wanted.depth != clone.depth:
        files["packed-refs"] = _packed(source.refs)
        files["shallow"] = "".join(f"{sha}\n" for sha in sorted(source.boundary or ()))
        lines += ["rm -rf .git/refs", "mkdir -p .git/refs/heads .git/refs/tags"]
    lines += [f"printf %b '{_escaped(text)}' >.git/{name}" for name, text in files.items()]
    lines += ["[ -s .git/shallow ] || rm -f .git/shallow"]
    for path in wanted.lacking(module.path for module in manifest.submodules):
        lines.append(f'path=$(printf %b. \'{_escaped(path)}\'); path=${{path%.}}; rm -rf "./$path"; mkdir -p "./$path"')
    if wanted.submodules == "none":
        lines.append("rm -rf .git/modules")
    if not wanted.files:
        lines += ["rm -f .git/index", "echo ref: refs/heads/none >.git/HEAD"]
        lines.append('for path in * .[!.]* ..?*; do case $path in .git | .loom) ;; *) rm -rf "./$path" ;; esac; done')
    return "".join(f"{line}\n" for line in ("set -e", *lines))


def reduced_manifest(workspace: Path, clone: Clone) -> bytes:
    """Return the manifest of a copy of `workspace` that is `clone`."""
    left = clone.lacking(module.path for module in read_manifest(workspace).submodules)
    return manifest_bytes(workspace, without=left)


def _escaped(text: str) -> str:
    """Return a text for `printf %b` between single quotes."""
    plain = frozenset(b"%s/._-+*:= " % bytes(range(97, 123))) | frozenset(range(48, 58)) | frozenset(range(65, 91))
    return "".join(chr(byte) if byte in plain else f"\\0{byte:03o}" for byte in os.fsencode(text))


def _config(source: Source, *, work_tree: str | None, attributes: str | None) -> Iterator[tuple[str, str]]:
    """Yield the keys of a workspace's configuration, with their values."""
    partial = source.config.get("extensions.partialclone", ())
    sha256 = object_format(source.head_sha) == "sha256"
    yield "core.repositoryformatversion", "1" if partial or sha256 else "0"
    yield "core.filemode", "true"
    yield "core.bare", "false"
    yield "core.logallrefupdates", "true"
    # The index is the source's: its mtimes and sizes hold here too, the rest of its stat data does not.
    yield "core.checkStat", "minimal"
    yield "core.trustctime", "false"
    own = {"core.worktree": work_tree, "core.attributesFile": attributes, "attr.tree": source.attributes_tree}
    yield from ((key, value) for key, value in own.items() if value)
    yield from ((key, values[-1]) for key in _CARRIED if (values := source.config.get(key)))
    if sha256:
        yield "extensions.objectformat", "sha256"
    if partial:
        yield "extensions.partialclone", partial[-1]
    for key, values in source.config.items():
        section, _, rest = key.partition(".")
        name, _, variable = rest.rpartition(".")
        if section == "remote" and name and (name == "origin" or name in partial):
            if variable == "fetch" and source.clone is not None:
                yield key, _FETCH
            elif variable in ("url", "pushurl", "fetch", "promisor", "partialclonefilter"):
                yield from ((key, value) for value in values)
        elif section == "submodule" and name and variable in ("url", "active", "update", "branch", "ignore"):
            # Its name is its path, but for moved ones.
            yield from [(key, values[-1])] if source.clone is None or source.clone.takes(name) else ()
    # A disposable repository: packing it in the background is work for nobody.
    yield "gc.auto", "0"
    yield "maintenance.auto", "false"


def _write_refs(source: Source, git_dir: Path) -> None:
    for name, _, target in source.refs:
        if target and not is_refused(name):
            path = git_dir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.fsencode(f"ref: {target}\n"))
    (git_dir / "packed-refs").write_bytes(os.fsencode(_packed(source.refs)))


def _packed(refs: Iterable[tuple[str, str, str]]) -> str:
    # Git ignores the names that are refused.
    lines = (f"{sha} {name}\n" for name, sha, target in sorted(refs) if not target and not is_refused(name))
    return "".join(("# pack-refs with: sorted \n", *lines))


def rules_of(source: Source, config: Iterable[tuple[str, str]]) -> Rules:
    """Read the rules that lie outside of the work tree: the user's own count below those in it, the repository's above."""
    excludes, attributes = (_content(path, Path.read_bytes) for path in _users(source))
    own_excludes, own_attributes = (_content(path, read_regular) for path in _own(source))
    # Git passes over a byte-order mark only where a file begins.
    found = (data.removeprefix(codecs.BOM_UTF8) for data in (excludes, own_excludes))
    return Rules(
        excludes=b"".join(data if data.endswith(b"\n") else data + b"\n" for data in found if data),
        attributes=attributes,
        own_attributes=own_attributes,
        config=tuple(config),
    )


def rule_files(source: Source) -> list[Path]:
    """Return the files that these rules are read from, also those that may come."""
    return [*filter(None, _users(source)), *_own(source)]


def _own(source: Source) -> list[Path]:
    return [source.common_dir / "info" / name for name in ("exclude", "attributes")]


def _users(source: Source) -> list[Path | None]:
    return [_user_file(source, "core.excludesfile", "ignore"), _user_file(source, "core.attributesfile", "attributes")]


def _content(path: Path | None, read: Callable[[Path], bytes]) -> bytes:
    try:
        return b"" if path is None else read(path)
    except OSError:
        return b""


def _user_file(source: Source, key: str, default: str) -> Path | None:
    home = source.environment.get("HOME", "")
    if values := source.config.get(key):
        text = values[-1]
        if text.startswith("~/") and home:
            return Path(home, text[2:])
        # "~name/": that user's. Without such a user, git has refused already.
        return source.root / Path(text).expanduser() if text else None
    base = source.environment.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else "")
    return Path(base, "git", default) if base else None


def lay_out_objects(
    source: Source, git_dir: Path, copied: copy_files.Copied, *, may_borrow: tuple[Path, ...], cancel: Cancel
) -> tuple[Path, ...]:
    """Make the source's objects readable from `git_dir`; returns the stores that are borrowed for it. Notes `copied` files.

    Never by hard link: a `chown -R` in a job would reach the user's own objects through it.
    """
    objects = git_dir / "objects"
    borrow = stores_to_borrow(source.objects_dir) if may_borrow else ()
    if borrow and set(borrow) <= set(may_borrow):
        (objects / "info" / "alternates").write_bytes(os.fsencode(quoted_store(source.objects_dir) + "\n"))
        return borrow
    there = set(_object_files(objects))  # in a workspace that is renewed: an object never changes
    for store in store_paths(source.objects_dir):
        _copy_store(store, objects, there, copied, cancel)
    return ()


def _copy_store(store: Path, target: Path, there: set[str], copied: copy_files.Copied, cancel: Cancel) -> None:
    """Copy packs and loose objects that are not `there` yet, and add them to it. Look again for objects that a `git gc` moves."""
    for _ in range(4):
        listed = sorted(path for path in _object_files(store) if path not in there)
        if not listed:
            return
        with CopyPool(store, target, since_ns=1 << 62, cancel=cancel) as pool:
            found = pool.copy(((path, copy_files.OBJECT) for path in listed), about=len(listed))
        if found.denied:
            raise SnapshotError(
                f"{store / found.denied[0][0]}: {os.strerror(found.denied[0][1])}",
                hint="git's objects must be readable",
                code="OBJECTS_UNREADABLE",
            )
        missing = set(found.absent)
        copied += ((f".git/objects/{prefix}", files) for prefix, files in found.copied)
        there.update(path for path in listed if path not in missing)
        if not missing:
            return


def _object_files(store: Path) -> Iterator[str]:
    for entry in os.scandir(store):
        found = _PACK if entry.name == "pack" else _OBJECT if _OBJECTS.fullmatch(entry.name) else None
        if found is None or not entry.is_dir(follow_symlinks=False):
            continue
        try:
            for name in os.listdir(entry.path):  # noqa: PTH208
                if found.fullmatch(name):
                    yield f"{entry.name}/{name}"
        except FileNotFoundError:
            continue  # a gc emptied and removed it


def copy_index(source: Source, git_dir: Path) -> bytes:
    """Copy the source's index as it is at this moment, for everything that follows; return its bytes ("" without one).

    Its time comes along, to the second below: git reads files again that are younger than their index.
    """
    try:
        with open_regular(source.index_path) as reading:
            status = os.fstat(reading.fileno())
            data = reading.read()
    except FileNotFoundError:
        return b""
    target = git_dir / "index"
    target.write_bytes(data)
    second = status.st_mtime_ns // 1_000_000_000 * 1_000_000_000
    os.utime(target, ns=(second, second))
    return data


def is_plain(index: bytes) -> bool:
    """Return whether an index says nothing that only holds at the source's path; only "no" may be wrong.

    git rewrites others, with which a snapshot of 150 files takes 1.27 of the time.
    """
    return not any(True for name in (b"link", b"FSMN", b"UNTR", b"sdir") for _ in _extensions(index, name))


def is_split(index: bytes) -> bool:
    """Return whether a part of it is in another file (as sure as `is_plain`); to read it touches that file's time."""
    return any(True for _ in _extensions(index, b"link"))


def tree_of_index(index: bytes, digest_size: int) -> str | None:
    """Return the tree that `git write-tree` would make of an index, if git has noted it there, else None.

    Snapshots without changes need no comparison then: one of 150 files takes 0.85 of the time, one of 5,000 0.98.
    Git forgets the note with every change of an entry, and makes none of files that are only intended to be added.
    """
    for content in _extensions(index, b"TREE"):
        counts, _, rest = content.partition(b"\n")  # of the root: its path (empty), NUL, entries, blank, subtrees
        entries = counts.removeprefix(b"\0").split(b" ")[0]
        if counts.startswith(b"\0") and entries.isdigit():
            return rest[:digest_size].hex()
    return None


def facts_in_index(index: bytes, digest_size: int) -> Iterator[tuple[int, ...]]:
    """Yield what each entry of an index says of its file: change time and time (s, ns), device, inode, mode, user, group,
    size, and flags."""
    if not index:
        return
    version, count = struct.unpack_from(">II", index, 4)
    entry = struct.Struct(f">10I{digest_size}xH")
    at = 12
    for _ in range(count):
        facts = entry.unpack_from(index, at)
        yield facts
        name = at + entry.size + (2 if facts[-1] & 0x4000 else 0)
        if version == 4:  # a number of bytes whose last one is below 128, then the rest of a name
            while index[name] & 0x80:
                name += 1
            at = index.index(0, name + 1) + 1
        else:
            length = facts[-1] & 0xFFF
            end = name + length if length < 0xFFF else index.index(0, name)
            at += (end - at + 8) // 8 * 8


def _extensions(index: bytes, name: bytes) -> Iterator[bytes]:
    """Return candidates for an extension's content; the name may also occur inside a file name."""
    at = index.find(name)
    while at >= 0:
        end = _end_of_extension(index, at)
        if _are_extensions(index, end):
            yield index[at + 8 : end]
        at = index.find(name, at + 1)


def _end_of_extension(index: bytes, at: int) -> int:
    return at + 8 + int.from_bytes(index[at + 4 : at + 8], "big")


def _are_extensions(index: bytes, at: int) -> bool:
    """Return whether the index has only whole extensions from `at` to its checksum."""
    while len(index) - at not in _CHECKSUMS:
        if not index[at : at + 4].isalpha():
            return False
        at = _end_of_extension(index, at)
    return True
