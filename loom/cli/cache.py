"""`loom cache`: what jobs' caches take, and taking some of it back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loom.render.output import print_json, table
from loom.util.units import counted, duration, rough_age, rough_size, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loom.storage.cache import Cache, Pruned, Stored

_JSON = typer.Option("--json", help="Print JSON.")
_ALL = typer.Option("--all", "-a", help="Every repository's caches, not only this one's.")


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Jobs' caches: list, remove, prune, verify.", no_args_is_help=True)
    group.command("ls")(ls)
    group.command("rm")(rm)
    group.command("prune")(prune)
    group.command("verify")(verify)
    app.add_typer(group, name="cache")


def ls(
    keys: Annotated[list[str] | None, typer.Argument(metavar="KEY", help="Only these keys (globs).")] = None,
    everything: Annotated[bool, _ALL] = False,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """List the entries, last used first."""
    cache, project = _opened()
    entries = _chosen(cache, project, keys, everything=everything)
    if json:
        print_json([_fields(entry) for entry in entries])
        return
    if not entries:
        print("no cache entries" if everything else f"no cache entries of {project}")
        return
    for line in _table(entries, with_project=everything):
        print(line)


def rm(
    keys: Annotated[list[str], typer.Argument(metavar="KEY...", help="Keys or globs; `*` is all.")],
    everything: Annotated[bool, _ALL] = False,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Remove entries by their keys."""
    from loom.errors import RequestError

    cache, project = _opened()
    entries = _chosen(cache, project, keys, everything=everything)
    if not entries:
        raise RequestError(
            f"no cache entry has the key {', '.join(keys)}",
            hint="`loom cache ls` lists the keys.",
            code="CACHE_NO_SUCH_KEY",
        )
    _told(cache.remove(entries), json=json)


def prune(
    max_size: Annotated[
        str | None,
        typer.Option("--max-size", metavar="SIZE", help="Leave at most this much, such as 5g (else cache_max_size)."),
    ] = None,
    unused_for: Annotated[
        str | None,
        typer.Option("--unused-for", metavar="DURATION", help="Remove what was not used for so long, such as 30d."),
    ] = None,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Remove least recently used entries of all repositories, and what interrupted runs left."""
    from loom.errors import RequestError

    cache, _ = _opened()
    try:
        limit = None if max_size is None else size(max_size)
        age = None if unused_for is None else duration(unused_for)
    except ValueError as error:
        raise RequestError(str(error)) from error
    _told(cache.prune(max_size=limit, unused_for_s=age), json=json)


def verify(
    remove: Annotated[bool, typer.Option("--remove", help="Remove the damaged entries.")] = False,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Read every archive and compare checksums; the exit code is 1 when something is damaged."""
    cache, _ = _opened()
    entries = cache.entries()
    damaged = cache.verify()
    if remove and damaged:
        cache.remove([damage.entry for damage in damaged if damage.entry is not None])
        for damage in damaged:
            if damage.entry is None:
                Path(damage.path).unlink(missing_ok=True)
    if json:
        print_json(
            {
                "entries": len(entries),
                "damaged": [
                    {"what": damage.what, "path": damage.path, "key": damage.entry.key if damage.entry else None}
                    for damage in damaged
                ],
                "removed": remove and bool(damaged),
            }
        )
    else:
        for damage in damaged:
            print(f"{damage.what}: {damage.entry.key if damage.entry else damage.path}")
        print(
            f"{counted(len(entries), 'entry', 'entries')} read, {len(damaged)} damaged{', removed' if remove and damaged else ''}"
        )
    raise SystemExit(1 if damaged and not remove else 0)


def _opened() -> tuple[Cache, str]:
    """The store that the configuration names, and the project it is seen from."""
    import os
    import subprocess
    import time

    from loom.commands.project import configured, find_root
    from loom.commands.wiring import cache_project
    from loom.storage.cache import Cache

    root = find_root(Path.cwd())
    settings = configured(root, dict(os.environ))
    try:
        asked = subprocess.run(
            ["git", "config", "--get", "remote.origin.url"],
            cwd=root,
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )
        origin = os.fsdecode(asked.stdout).strip()
    except OSError:
        origin = ""
    project = cache_project(settings, root, origin or None)
    return Cache(settings.cache_dir, max_size=settings.cache_max_size, project=project, clock=time.time), project


def _chosen(cache: Cache, project: str, keys: list[str] | None, *, everything: bool) -> list[Stored]:
    from fnmatch import fnmatchcase

    return [
        entry
        for entry in cache.entries()
        if (everything or entry.project == project)
        and (not keys or any(entry.key == key or entry.id == key or fnmatchcase(entry.key, key) for key in keys))
    ]


def _told(pruned: Pruned, *, json: bool) -> None:

    if json:
        print_json({"removed": [_fields(entry) for entry in pruned.entries], "freed_bytes": pruned.freed_bytes})
        return
    for entry in pruned.entries:
        print(f"removed {entry.key} ({entry.project})")
    print(f"{counted(len(pruned.entries), 'entry', 'entries')} removed, {rough_size(pruned.freed_bytes)} freed")


def _table(entries: Sequence[Stored], *, with_project: bool) -> list[str]:
    import time

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
    return [*table(rows), f"{counted(len(entries), 'entry', 'entries')}, {rough_size(sum(shared.values()))} on disk"]


def _fields(entry: Stored) -> dict[str, Any]:
    from msgspec.structs import asdict

    return {name: value for name, value in asdict(entry).items() if name != "trees"}
