"""List what runs leave on this machine and in engines, and decide what goes: one table, and one function for each column.

| kind | goes by itself | beyond `keep_runs` | beyond `keep_workspaces` | beyond `keep_max_size` |
| --- | --- | --- | --- | --- |
| run: a record with its workspaces | | goes, if no job is kept | | |
| workspace | what is left beside a removed one; `--all`: without a record | with its run | goes, if no job is kept | goes |
| container | when its time is over (`keep_for`) | with its run | with its workspace | goes |
| artifacts | when their `expire_in` is over | with their run | | |
| action | a day after it was fetched, if no record names it | | | |
| checkout (`reproduce`, `replay`) | if its runs have neither workspace nor container | | | |

Nothing in use goes, nor what is the newest run's, or a checkout's newest failed run's. For a large workspace the number is
one. A run and its child pipelines count as one; the oldest go first. A kept job holds the workspaces of a checkout's last
`keep_workspaces` runs with kept jobs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from loom.commands.project.background import size_limit
from loom.config import Config
from loom.record.store import GOES_ON, RunEntry, Store
from loom.snapshot import is_occupied, remains
from loom.util import jsons, processes
from loom.util.file_systems import allocated
from loom.util.locks import holders
from loom.util.paths import run_of_workspace
from loom.util.units import rough_size
from loom.util.untrusted_files import read_regular

ACTION_UNUSED_S = 24 * 3600.0
"""A run that begins may name an action that no record names yet."""


class Item(Struct, kw_only=True):
    """One item that `loom clean` examines, as the newest run that used it recorded it, and the outcome of its removal."""

    kind: Literal["run", "workspace", "container", "artifacts", "checkout", "action"]
    """A run goes with its record and workspaces; of the other kinds the record stays. A workspace goes with all beside it."""
    name: str
    """The run's id, a path, the container's name, or the job whose artifacts have expired."""
    repo_root: str = ""
    run_ids: list[str] = []
    """The runs that used it, the newest one last; empty for workspaces of `loom snapshot`."""
    is_spare: bool = False
    """A workspace that is kept to become the next run's."""
    is_large: bool = False
    """A run's workspace that becomes a later one's as soon as it is not needed."""
    made_at: int = 0
    """For a workspace or a container, the id of the newest run or of the workspace itself: a time in nanoseconds."""
    job_id: str | None = None
    container_id: str = ""
    workspaces: list[str] = []
    """The directories that go with a run."""
    bytes: int = 0
    """On this machine, or of a container without the job's files."""
    until: str | None = None
    used_by: str = ""
    """The user of a container; empty when nobody is in it."""
    reason: str | None = None
    """Why a workspace or a container goes; None for one that stays."""
    removed: bool = False
    """False in a dry run, and on failure (see `problems`)."""
    problems: list[str] = []


class Records:
    """The runs of a state directory with their workspaces, and who needs what they left."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.families = list(store.families())
        found = [(entry, family[0].run_id) for family in self.families for entry in family]
        self.first = {entry.run_id: first for entry, first in found}
        self.entries = {
            entry.run_id: entry for entry, _ in sorted(found, key=lambda one: int(one[0].run_id), reverse=True)
        }
        """The newest first."""
        firsts = [family[0] for family in self.families]
        self.failed = _newest((one for one in firsts if one.state not in ("success", *GOES_ON)), 1)
        self._stood_in = list(processes.current_directories())

    @cached_property
    def workspaces(self) -> list[Item]:
        """The existing workspaces that loom made, oldest first."""
        found: dict[str, Item] = {}
        for owned in self.store.workspaces.all():
            made = [owned.run_id] if owned.kind == "run" else []
            at = int(run_of_workspace(owned.path.name) or 0)
            found[str(owned.path)] = Item(
                kind="workspace",
                name=str(owned.path),
                repo_root=owned.repo_root,
                run_ids=made,
                made_at=at,
                is_spare=owned.kind == "spare",
                is_large=owned.kind == "run" and self.store.workspaces.is_large(owned.path),
            )
        for entry in reversed(self.entries.values()):
            for path in entry.workspaces:
                if (known := found.get(os.path.realpath(path))) is not None:
                    known.run_ids = [*(run for run in known.run_ids if run != entry.run_id), entry.run_id]
                    known.made_at = max(known.made_at, int(entry.run_id))
        there = [one for path, one in found.items() if remains(Path(path)) and vouched(self.store, Path(path))]
        return sorted(there, key=lambda one: one.made_at)

    def is_in_use(self, entry: RunEntry) -> bool:
        """Return whether jobs of the run still run, or somebody is in its workspaces or kept containers."""
        return (
            entry.goes_on
            or any(self.occupied(Path(path)) for path in entry.workspaces)
            or any(holders(self.store.lock_of_kept(container_id)) for container_id in kept_ids(entry))
        )

    def occupied(self, workspace: Path) -> bool:
        """Return whether loom works there, or a process of this machine has its current directory there."""
        below = tuple(f"{os.path.realpath(path)}/" for path in remains(workspace))
        return bool(is_occupied(workspace)) or any(path.startswith(below) for path in self._stood_in)

    def uses(self, one: Item) -> bool:
        """Return whether this workspace or container is in use."""
        if any(self.entries[run_id].goes_on for run_id in one.run_ids if run_id in self.entries):
            return True
        return self.occupied(Path(one.name)) if one.kind == "workspace" else bool(one.used_by)


def decide(
    items: Iterable[Item], records: Records, config: Config, repo_root: Path | None, *, with_spares: bool
) -> None:
    """Give those of these workspaces and containers that go their reason.

    The number counts for this checkout (None: each), the size for all. `with_spares`: every spare workspace goes.
    """
    together: dict[str, list[Item]] = {}
    held: set[str] = set()
    """The families that stay in any case."""
    for one in sorted(items, key=lambda one: one.made_at):
        newest = one.run_ids[-1] if one.run_ids else one.name
        family, used = records.first.get(newest, newest), records.uses(one)
        if one.kind == "workspace":
            one.bytes = allocated(*remains(Path(one.name)))
        one.reason = None if used else _own_end(one)
        if (
            one.is_spare
            and with_spares
            and one.reason is None
            and not used
            and repo_root in (None, Path(one.repo_root))
        ):
            one.reason = "kept to become the workspace of a later run"
        if one.reason is None:
            together.setdefault(family, []).append(one)
        if used or not records.failed.isdisjoint(one.run_ids):
            held.add(family)
    held.update([*together][-1:])
    ids = {family: {run_id for one in some for run_id in one.run_ids} for family, some in together.items()}
    there = set().union(*ids.values())
    kept = (entry for run_id, entry in records.entries.items() if run_id in there and is_kept(entry))
    lasting = _newest(kept, config.keep_workspaces)
    checkouts: dict[tuple[str, bool], list[str]] = {}
    """The families of each, those of runs and of `loom snapshot` apart."""
    for family, (one, *_) in together.items():
        if not one.is_spare:
            checkouts.setdefault((one.repo_root, bool(one.run_ids)), []).append(family)
    few, most = config.keep_workspaces, size_limit(config)
    for (root, _), families in checkouts.items():
        newer = 0
        for family in reversed(families) if repo_root in (None, Path(root)) else ():
            last = min(1, few) if any(one.is_large for one in together[family]) else few
            if newer >= last and family not in held and lasting.isdisjoint(ids[family]):
                _release(together.pop(family), f"older than the last {last} of {root} (keep_workspaces)")
            newer += ids[family] <= records.entries.keys()  # not one that waits for the next run
    total = sum(one.bytes for some in together.values() for one in some)
    for family, some in together.items():
        if total > most and family not in held:
            for one in some:
                one.is_large = False
            _release(some, f"all together take more than {rough_size(most)} (keep_max_size)")
            total -= sum(one.bytes for one in some)


def _own_end(one: Item) -> str | None:
    if one.kind == "workspace":
        return None if os.path.lexists(one.name) else "the files beside a removed workspace"
    until = datetime.fromisoformat(str(one.until))
    return "its time is over (keep_for)" if until <= datetime.now(until.tzinfo) else None


def _release(together: Iterable[Item], why: str) -> None:
    for one in together:
        one.reason = why


def _newest(entries: Iterable[RunEntry], most: int) -> set[str]:
    """Return each checkout's newest `most` runs; `entries` are newest first."""
    found: dict[object, list[str]] = {}
    for entry in entries:
        found.setdefault(entry.identity.get("repo_root"), []).append(entry.run_id)
    return {run_id for run_ids in found.values() for run_id in run_ids[:most]}


def vouched(store: Store, workspace: Path) -> bool:
    """Return whether the state directory records this directory as one that loom made: no other one is ever removed."""
    return run_of_workspace(workspace.name) is not None and store.workspaces.confirms(workspace)


def unused_actions(config: Config, store: Store) -> Iterator[Path]:
    """Yield the directories of fetched actions that no record names and no run has asked for within a day.

    The repository that they came from follows the last one.
    """
    plans: list[str] | None = None
    for folder in sorted(config.cache_dir.glob("actions-*/*+*")):
        if "@" in folder.name:  # its repository, and the repository's lock
            continue
        there = [*folder.iterdir()]
        old = [one for one in there if time.time() - one.stat().st_mtime > ACTION_UNUSED_S]
        if old and plans is None:
            plans = [read_regular(path).decode() for entry in store.entries() if (path := entry.paths.plan).exists()]
        going = [one for one in old if all(str(one) not in plan for plan in plans or ())]
        yield from going
        if there and len(going) == len(there):
            yield folder.with_name(f"{folder.name}@git")


def is_kept(entry: RunEntry) -> bool:
    """Return whether a job of the run is kept and has not expired."""
    now = time.time()
    return any(datetime.fromisoformat(str(fact["expires_at"])).timestamp() > now for _, fact in kept_facts(entry))


def kept_facts(entry: RunEntry) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each job with a kept container, and what its manifest records of it. Damaged manifests are passed over."""
    for manifest in sorted(entry.paths.logs.glob("jobs/*/manifest.json")):
        with suppress(OSError, ValueError, AttributeError, TypeError, KeyError):
            fact = dict(jsons.decode(read_regular(manifest)).get("kept") or {})
            datetime.fromisoformat(str(fact["expires_at"]))
            yield manifest.parent.name, fact


def kept_ids(entry: RunEntry) -> list[str]:
    return [str(fact["container_id"]) for _, fact in kept_facts(entry) if fact.get("container_id")]
