"""Retention of workspaces: the last few of each repository, within a limit on their total size."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from loom.config import Config
from loom.record.store import DETACHED, RUNNING, RunEntry, Store
from loom.snapshot import is_occupied, is_workspace, remains
from loom.util import atomic, jsons
from loom.util.file_systems import allocated
from loom.util.paths import run_of_workspace
from loom.util.private import make_private
from loom.util.units import rough_size
from loom.util.untrusted_files import read_regular

IN_USE = "in use"
BACKGROUND_S = 600
"""Time limit of a background removal; the next run continues it."""
CLEAN_AFTER_RUNS = 5
CLEAN_AFTER_S = 3600.0
CLEAN_AFTER_BYTES = 1 << 30
"""A clean-up in the background is due after so many workspaces, so long, or so much less free space."""


class OwnedWorkspace(Struct, kw_only=True):
    """A workspace, with all that lies beside it, and the runs that used it: the newest one last."""

    path: Path
    repo_root: str
    run_ids: list[str]
    """Empty for workspaces of `loom snapshot`."""
    made_at: int
    """The id of the newest run, or of the workspace itself: a time in nanoseconds."""
    bytes: int
    stays: str | None = None
    """Why it stays regardless of the limits."""
    goes: str | None = None
    """The limit that it exceeds."""


def vouched(store: Store, workspace: Path) -> bool:
    """Tell whether the state directory records this directory as one that loom made: nothing else is ever removed.

    Without a claim (an older loom, or one that was killed before it wrote the claim) the record has a name only; then the
    directory has a mark inside, or nothing at all.
    """
    if run_of_workspace(workspace.name) is None:
        return False
    if store.claims.of(workspace) is not None:
        return store.claims.confirms(workspace)
    recorded = any(str(workspace) in entry.workspaces for entry in store.entries())
    return (recorded or store.manifest_of(workspace) is not None) and (
        not os.path.lexists(workspace) or is_workspace(workspace) or _is_empty(workspace)
    )


def _is_empty(workspace: Path) -> bool:
    try:
        return not workspace.is_symlink() and not any(workspace.iterdir())
    except OSError:
        return False


def held(store: Store) -> list[OwnedWorkspace]:
    """Return a state directory's existing workspaces, oldest first."""
    found: dict[Path, OwnedWorkspace] = {}
    for claim in store.claims.all():
        made = [claim.run_id] if claim.kind == "run" else []
        found[claim.path] = OwnedWorkspace(
            path=claim.path,
            repo_root=claim.repo_root,
            run_ids=made,
            made_at=int(run_of_workspace(claim.path.name) or 0),
            bytes=0,
        )
    for entry in reversed(list(store.entries())):
        root = str(entry.identity.get("repo_root"))
        for path in map(Path, entry.workspaces):
            known = found.setdefault(path, OwnedWorkspace(path=path, repo_root=root, run_ids=[], made_at=0, bytes=0))
            known.run_ids = [*(run for run in known.run_ids if run != entry.run_id), entry.run_id]
            known.made_at = max(known.made_at, int(entry.run_id))
    there = [one for path, one in found.items() if remains(path) and vouched(store, path)]
    return sorted(there, key=lambda one: one.made_at)


def judged(store: Store, config: Config, repo_root: Path | None, *, now: float) -> list[OwnedWorkspace]:
    """Return all workspaces with sizes and removal decisions: by number for this checkout (None: each), by total size
    for all. Those of a run and of its child pipelines stay or go together.
    """
    found = held(store)
    families = list(store.families())
    entries = {entry.run_id: entry for family in families for entry in family}
    first = {entry.run_id: family[0].run_id for family in families for entry in family}
    protected = newest_failed(family[0] for family in families)
    here = {run_id for one in found for run_id in one.run_ids}
    kept = newest_kept((entry for entry in entries.values() if entry.run_id in here), config.keep_workspaces, now=now)
    for one in found:
        one.bytes = allocated(*remains(one.path))
        one.stays = _why_it_stays(one, entries, protected, kept)
        if not os.path.lexists(one.path) and one.stays != IN_USE:
            one.stays, one.goes = None, "the files beside a removed workspace"
    together: dict[str, list[OwnedWorkspace]] = {}
    for one in found:
        if one.goes is None:
            newest = one.run_ids[-1] if one.run_ids else str(one.path)
            together.setdefault(first.get(newest, newest), []).append(one)
    whole = list(together.values())
    for number, some in enumerate(whole, start=1):
        stays = next((one.stays for one in some if one.stays), "the newest one" if number == len(whole) else None)
        for one in some:
            one.stays = one.stays or stays
    for group in _groups(whole):
        if repo_root is None or group[0][0].repo_root == str(repo_root):
            for some in group[: max(len(group) - config.keep_workspaces, 0)]:
                _let_go(some, f"older than the last {config.keep_workspaces} of {some[0].repo_root} (keep_workspaces)")
    most = size_limit(config)
    total = sum(one.bytes for one in found if one.goes is None)
    for some in whole:
        if total > most and some[0].goes is None and some[0].stays is None:
            _let_go(some, f"all together take more than {rough_size(most)} (workspaces_max_size)")
            total -= sum(one.bytes for one in some)
    return found


def _let_go(together: Iterable[OwnedWorkspace], why: str) -> None:
    for one in together:
        if one.stays is None:
            one.goes = why


def forget_gone(store: Store) -> None:
    """Remove the claims of deleted workspaces."""
    for claim in store.claims.all():
        if not remains(claim.path):
            store.claims.forget(claim.path)


def size_limit(config: Config) -> int:
    """As configured, at most half of the file system."""
    return min(config.workspaces_max_size, shutil.disk_usage(_existing(config.tmp_dir)).total // 2)


def newest_failed(entries: Iterable[RunEntry]) -> set[str]:
    """Return each checkout's newest failed run; `entries` are newest first."""
    found: dict[object, str] = {}
    for entry in entries:
        if entry.state not in ("success", RUNNING, DETACHED):
            found.setdefault(entry.identity.get("repo_root"), entry.run_id)
    return set(found.values())


def newest_kept(entries: Iterable[RunEntry], most: int, *, now: float) -> set[str]:
    """Return each checkout's newest `most` runs with a kept job; `entries` are newest first.

    On a terminal every failed run keeps jobs, so a limit is needed.
    """
    found: dict[object, list[str]] = {}
    for entry in entries:
        if is_kept(entry, now=now):
            found.setdefault(entry.identity.get("repo_root"), []).append(entry.run_id)
    return {run_id for run_ids in found.values() for run_id in run_ids[:most]}


def is_kept(entry: RunEntry, *, now: float) -> bool:
    """Tell whether a job of the run is kept and has not expired."""
    return any(datetime.fromisoformat(str(fact["expires_at"])).timestamp() > now for _, fact in kept_facts(entry))


def kept_facts(entry: RunEntry) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each job with a kept place, and what its manifest records of that place. Damaged manifests are passed over."""
    for manifest in sorted(entry.paths.logs.glob("jobs/*/manifest.json")):
        if fact := _kept_fact(manifest):
            yield manifest.parent.name, fact


def _kept_fact(manifest: Path) -> dict[str, Any]:
    try:
        found = jsons.decode(read_regular(manifest)).get("kept") or {}
        datetime.fromisoformat(str(found["expires_at"]))
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        return {}
    return dict(found)


def _groups(found: Iterable[list[OwnedWorkspace]]) -> Iterator[list[list[OwnedWorkspace]]]:
    """Group by checkout, runs and snapshots separately."""
    groups: dict[tuple[str, bool], list[list[OwnedWorkspace]]] = {}
    for together in found:
        groups.setdefault((together[0].repo_root, bool(together[0].run_ids)), []).append(together)
    yield from groups.values()


def _why_it_stays(one: OwnedWorkspace, entries: Mapping[str, RunEntry], failed: set[str], kept: set[str]) -> str | None:
    runs = [entries[run_id] for run_id in one.run_ids if run_id in entries]
    if any(entry.goes_on for entry in runs) or is_occupied(one.path) or any(map(somebody_stands_in, remains(one.path))):
        return IN_USE
    if kept.intersection(one.run_ids):
        return "a job of it is kept"
    if failed.intersection(one.run_ids):
        return "the newest failed run's"
    return None


def somebody_stands_in(workspace: Path) -> bool:
    """Tell whether a process of this machine has its current directory there, such as a shell after `cd`."""
    below = f"{os.path.realpath(workspace)}/"
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{os.readlink(process / 'cwd')}/".startswith(below):  # noqa: PTH115
                return True
        except OSError:
            continue  # it ended, or belongs to another user
    return False


def into_background(store: Store) -> bool:
    """Lower this process's priority and limit its time. False when another clean-up is running."""
    make_private(store.claims.folder.parent)
    store.claims.folder.mkdir(exist_ok=True, mode=0o700)
    lock = os.open(store.claims.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)  # held until the end
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    os.nice(10)
    signal.alarm(BACKGROUND_S)
    return True


class LastClean(Struct, frozen=True):
    """The state of a checkout after its last clean-up."""

    at: float
    workspaces: int
    free: int
    """Of the workspaces' file system, in bytes."""


def note_clean(store: Store, config: Config, root: Path) -> None:
    """Note that the checkout was cleaned now; checkouts that are gone are forgotten."""
    known = {path: last for path, last in _last_cleans(store).items() if Path(path).is_dir()}
    now = LastClean(time.time(), _workspaces_of(store, root), _free(config))
    with suppress(OSError):  # the next run's end tries again
        atomic.write(_cleans(store), msgspec.json.encode(known | {str(root): now}), mode=0o600)


def is_due(store: Store, config: Config, root: Path) -> bool:
    """Tell whether a clean-up may find something, from what is known without looking at records and sizes."""
    number, last = _workspaces_of(store, root), _last_cleans(store).get(str(root))
    if last is None:
        return number > 1
    enough = min(CLEAN_AFTER_BYTES, size_limit(config) // 10)
    return (
        number - last.workspaces >= CLEAN_AFTER_RUNS
        or not 0 <= time.time() - last.at < CLEAN_AFTER_S
        or last.free - _free(config) >= enough
    )


def _cleans(store: Store) -> Path:
    return store.claims.folder / ".cleaned"


def _last_cleans(store: Store) -> dict[str, LastClean]:
    try:
        return msgspec.json.decode(read_regular(_cleans(store)), type=dict[str, LastClean])
    except (OSError, ValueError):
        return {}


def _workspaces_of(store: Store, root: Path) -> int:
    return sum(claim.repo_root == str(root) for claim in store.claims.all())


def _free(config: Config) -> int:
    return shutil.disk_usage(_existing(config.tmp_dir)).free


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def clean_later(store: Store, config: Config, environ: Mapping[str, str], root: Path) -> None:
    """Run `loom clean` in a background process where it is due, so that the run ends without delay."""
    if not (config.auto_clean and is_due(store, config, root)):
        return
    with suppress(OSError):  # the next run's end retries
        subprocess.Popen(
            # -P: do not run a folder `loom` of the repository.
            [sys.executable, "-P", "-m", "loom", "clean", "--in-background"],
            cwd=root,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
