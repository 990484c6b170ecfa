"""`loom cache`: list and remove entries."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

from msgspec.structs import asdict

from loom.commands.plan.wiring import cache_project
from loom.commands.project import checkout, open_project
from loom.errors import RequestError
from loom.record.events import timestamp
from loom.render.output import print_either, stacked, table
from loom.storage.cache import Cache, Stored
from loom.util.globs import match_name
from loom.util.units import counted, rough_age, rough_size


def ls(keys: list[str] | None, *, everywhere: bool, as_json: bool) -> None:
    cache, project = _opened()
    entries = _chosen(cache, project, keys, everywhere=everywhere)
    nothing = ["no cache entries" if everywhere else f"no cache entries of {project}"]
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    lines = _table(entries, columns, with_project=everywhere) if entries else nothing
    print_either(as_json, "cache-list", {"entries": [_fields(entry) for entry in entries]}, lines)


def rm(keys: list[str], *, everywhere: bool, as_json: bool) -> None:
    cache, project = _opened()
    entries = _chosen(cache, project, keys, everywhere=everywhere)
    if not entries:
        raise RequestError(
            f"no cache entry has the key {', '.join(keys)}",
            hint="`loom cache ls` lists the keys.",
            code="CACHE_NO_SUCH_KEY",
        )
    freed = cache.remove(entries)
    removed = [_fields(entry) for entry in entries]
    lines = [f"removed {entry.key} ({entry.project})" for entry in entries]
    lines.append(f"{counted(len(removed), 'entry', 'entries')} removed, {rough_size(freed)} freed")
    print_either(as_json, "cache-removal", {"removed": removed, "freed_bytes": freed}, lines)


def _opened() -> tuple[Cache, str]:
    project = open_project()
    settings = project.config
    origin = checkout.origin_of(project)
    name = cache_project(settings, project.root, str(origin) if origin else None)
    return Cache(settings.cache_dir, max_size=settings.cache_max_size, project=name, clock=time.time), name


def _chosen(cache: Cache, project: str, keys: list[str] | None, *, everywhere: bool) -> list[Stored]:
    return [
        entry
        for entry in cache.entries()
        if (everywhere or entry.project == project)
        and (not keys or any(key in (entry.key, entry.id) or match_name(key, entry.key) for key in keys))
    ]


def _table(entries: Sequence[Stored], columns: int | None, *, with_project: bool) -> list[str]:
    now = time.time()
    with_kind = any(entry.protected for entry in entries)
    more = [*(["BRANCH"] if with_kind else []), *(["PROJECT"] if with_project else [])]
    rows = [["KEY", "PATHS", "FILES", "SIZE", "PACKED", "USED", *more]]
    rows += [
        [
            entry.key,
            " ".join(entry.paths),
            str(entry.files),
            rough_size(entry.bytes),
            rough_size(entry.packed_bytes),
            rough_age(now - entry.used_at),
            *(["protected" if entry.protected else "any"] if with_kind else []),
            *([entry.project] if with_project else []),
        ]
        for entry in entries
    ]
    shared = {entry.blob: entry.packed_bytes for entry in entries}
    lines = table(rows)
    if columns is not None and max(map(len, lines)) > columns:
        lines = [line for key, *others in rows[1:] for line in stacked(key, others, columns)]
    return [*lines, f"{counted(len(entries), 'entry', 'entries')}, {rough_size(sum(shared.values()))} on disk"]


def _fields(entry: Stored) -> dict[str, Any]:
    shape = {name: value for name, value in asdict(entry).items() if name not in ("schema", "trees")}
    return shape | {name: timestamp(int(shape[name] * 1e9)) for name in ("created_at", "used_at")}
