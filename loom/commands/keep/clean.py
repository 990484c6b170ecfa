"""`loom clean`: delete records, workspaces and artifacts (selected, or beyond a limit), and their engine resources."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from functools import cached_property
from pathlib import Path

from msgspec.structs import asdict

from loom import snapshot
from loom.commands.inside import saved, session
from loom.commands.keep import retention
from loom.commands.keep.retention import Item, Records, kept_facts, kept_ids
from loom.commands.project import BUNDLES, Project, background, open_project
from loom.errors import EngineUnavailable, LoomError, RequestError
from loom.plan.model import CONTAINERS, Job
from loom.record.documents import JobManifest
from loom.record.past_run import PastRun
from loom.record.store import RunEntry, read_document
from loom.render.output import print_either
from loom.runner.spares import set_aside
from loom.snapshot import remains, repository
from loom.status import ExitCode
from loom.util import locks
from loom.util.bounded import listed
from loom.util.file_systems import allocated
from loom.util.locks import holders
from loom.util.units import counted, duration, read_flag, rough_size

_MOST_NAMED = 5
_NOT_PRINTED = ("repo_root", "made_at", "container_id", "is_spare", "is_large")
"""The fields of an item that only decide whether it goes."""


def clean(
    runs: Sequence[str] | None,
    *,
    keep_last: int | None,
    older_than: str | None,
    everywhere: bool,
    dry_run: bool,
    as_json: bool,
    in_background: bool = False,
) -> int:
    project = open_project()
    if in_background and not background.into_background(project.store):
        return ExitCode.OK
    if runs and (keep_last is not None or older_than is not None):
        raise RequestError("name runs, or select them with --keep-last and --older-than; not both")
    cleaning = _Cleaning(project, in_background=in_background)
    items = cleaning.named(runs) if runs else cleaning.chosen(keep_last, older_than, everywhere=everywhere)
    if not dry_run:
        for item in items:
            cleaning.remove(item)
        project.store.remove_remains()
        for owned in project.store.workspaces.all():
            if not remains(owned.path):
                project.store.workspaces.forget(owned.path)
        if not runs:
            background.note_clean(project)
            repository.prune(os.environ)
    printed = [{key: value for key, value in asdict(item).items() if key not in _NOT_PRINTED} for item in items]
    document = {"dry_run": dry_run, "items": printed}
    print_either(as_json, "clean", document, _lines(items, dry_run=dry_run))
    return ExitCode.INFRASTRUCTURE if any(item.problems for item in items) else ExitCode.OK


def _lines(items: Sequence[Item], *, dry_run: bool) -> Iterator[str]:
    verb = "would go" if dry_run else "removed"
    for item in items:
        if item.reason is not None or item.kind in ("run", "artifacts"):
            outcome = "removed" if item.removed else "could not remove" if item.problems else "would remove"
            yield f"{outcome} {_named(item)}"
        elif dry_run:
            until = datetime.fromisoformat(str(item.until)).astimezone()
            yield f"kept until {until:%Y-%m-%d %H:%M}: {_named(item)}" + (
                f", in use by {item.used_by}" if item.used_by else ""
            )
        yield from (f"  {problem}" for problem in item.problems)
    done = [item for item in items if dry_run or item.removed]
    runs, spaces = ([item for item in done if item.kind == kind] for kind in ("run", "workspace"))
    yield f"{len(runs)} {verb}, {rough_size(sum(item.bytes for item in runs))}"
    if spaces:
        size = rough_size(sum(item.bytes for item in spaces))
        yield f"{counted(len(spaces), 'workspace')} {verb}, {size}"


def _named(item: Item) -> str:
    if item.kind == "artifacts":
        return f"the expired artifacts of {item.job_id} in {item.run_ids[-1]}"
    what = f"the container of {item.job_id} in {item.run_ids[-1]}" if item.kind == "container" else item.name
    why = f": {item.reason}" if item.reason else ""
    return f"{what}  {rough_size(item.bytes)}{why}  {' '.join(item.workspaces[:1])}".rstrip()


class _Cleaning:
    def __init__(self, project: Project, *, in_background: bool) -> None:
        self._project = project
        self._in_background = in_background
        self._store = project.store
        self._records = Records(project.store)
        self._unknown: dict[str, str] = {}
        """The runs whose kept containers nobody knows of now, with the reason."""
        self._silent: dict[str, str] = {}
        """The providers that do not answer, with what they said; none of them is asked twice."""

    @cached_property
    def _containers(self) -> dict[str, Item]:
        """The kept containers that are there by their ids, the newest first."""
        found: dict[str, Item] = {}
        entries = self._records.entries.values()
        facts = ((entry, job_id, fact) for entry in entries for job_id, fact in kept_facts(entry))
        for entry, job_id, fact in facts:
            container_id = str(fact.get("container_id") or "")
            if container_id and container_id not in found and self._is_there(entry, job_id):
                found[container_id] = Item(
                    kind="container",
                    name=str(fact.get("container_name") or ""),
                    repo_root=str(entry.identity.get("repo_root")),
                    run_ids=[entry.run_id],
                    made_at=int(entry.run_id),
                    bytes=int(fact.get("bytes") or 0),
                    job_id=job_id,
                    container_id=container_id,
                    until=str(fact["expires_at"]),
                    used_by=holders(self._store.lock_of_kept(container_id)),
                )
        return found

    def _is_there(self, entry: RunEntry, job_id: str) -> bool:
        """Ask the job's provider, unless it does not answer."""
        try:
            job = PastRun(entry).job(job_id)
        except LoomError:  # an older or damaged record: what it kept ends by its own deadline
            return False
        provider = job.job.provider
        if why := self._silent.get(provider):
            self._unknown[entry.run_id] = why
            return False
        try:
            found = session.find_kept(self._project, job)
        except LoomError as error:
            self._unknown[entry.run_id] = error.message
            if isinstance(error, EngineUnavailable | RequestError):
                self._silent[provider] = error.message
            return False
        return found is not None and found.kept_id == job.kept_id

    # -- what to remove -------------------------------------------------------------------------------------------

    def named(self, runs: Sequence[str]) -> list[Item]:
        families = {family[0].run_id: family for family in self._records.families}
        entries: dict[str, RunEntry] = {}
        for run in runs:
            named = self._permitted(run)
            if named.run_id not in families:
                raise RequestError(
                    f"{named.run_id} is a child pipeline of run {named.child_of}: nothing was deleted",
                    hint=f"they are removed together: loom clean {named.child_of}",
                )
            entries |= {entry.run_id: self._permitted(entry.run_id) for entry in families[named.run_id]}
        return self._runs(list(entries.values()))

    def _permitted(self, run: str) -> RunEntry:
        entry = self._store.find(run, repo_root=self._project.root)
        if entry.alive:
            raise RequestError(f"run {entry.run_id} is still running: nothing was deleted")
        if self._records.is_in_use(entry) and not entry.goes_on:
            raise RequestError(
                f"a shell, or a run that goes on from {entry.run_id}, is in its workspace: nothing was deleted",
                hint="wait for it to end",
            )
        if not self._store.has_record(entry):
            raise RequestError(f"{entry.paths.root} is a copy of a record: delete it by hand")
        return entry

    def chosen(self, keep_last: int | None, older_than: str | None, *, everywhere: bool) -> list[Item]:
        records, by_limits = self._records, keep_last is None and older_than is None
        if older_than is None:  # after all existing ones, even those that a wrong clock dated into the future
            before_ns = max([time.time_ns(), *(int(run_id) + 1 for run_id in self._store.run_ids()[:1])])
        else:
            before_ns = time.time_ns() - int(read_flag("--older-than", older_than, duration) * 1e9)
        if keep_last is None:
            keep_last = self._project.config.keep_runs if older_than is None else 0
        root = None if everywhere else self._project.root
        families = list(self._store.families(root))
        going = [
            family
            for family in families[keep_last:]
            if int(family[0].run_id) < before_ns
            and not any(map(records.is_in_use, family))
            and not (by_limits and (family[0].run_id in records.failed or any(map(retention.is_kept, family))))
        ]
        runs = self._runs([entry for family in going for entry in family])
        gone, paths = {run.name for run in runs}, {path for run in runs for path in run.workspaces}
        staying = [entry for family in families for entry in family if entry.run_id not in gone]
        containers = [one for one in self._containers.values() if gone.isdisjoint(one.run_ids)]
        spaces = [one for one in records.workspaces if one.name not in paths]
        if by_limits:
            retention.decide(
                [*spaces, *containers], records, self._project.config, root, with_spares=not self._in_background
            )
        for one in spaces if everywhere else ():
            if records.entries.keys().isdisjoint(one.run_ids) and one.made_at < before_ns and not records.uses(one):
                one.reason, one.bytes = "of no run with a record", allocated(*remains(Path(one.name)))
        return [
            *(one for entry in staying for one in _expired(entry, time.time())),
            *runs,
            *(containers if by_limits else ()),
            *(one for one in spaces if one.reason is not None),
            *(self._unneeded_in_cache([*spaces, *containers], with_actions=by_limits)),
        ]

    def _runs(self, chosen: Sequence[RunEntry]) -> list[Item]:
        """Each goes with its workspaces, but those that remaining runs need, such as a resumed one."""
        remaining = self._records.entries.keys() - {entry.run_id for entry in chosen}
        free = [one for one in self._records.workspaces if remaining.isdisjoint(one.run_ids)]
        return [self._run(entry, [Path(one.name) for one in free if entry.run_id in one.run_ids]) for entry in chosen]

    def _run(self, entry: RunEntry, workspaces: Sequence[Path]) -> Item:
        # A record that does not name its workspace does not tell whether somebody is there.
        there = [path for path in workspaces if entry.workspaces or not self._records.occupied(path)]
        return Item(
            kind="run",
            name=entry.run_id,
            run_ids=[entry.run_id],
            workspaces=list(map(str, there)),
            bytes=allocated(entry.paths.root, *(left for path in there for left in remains(path))),
        )

    def _unneeded_in_cache(self, left: Sequence[Item], *, with_actions: bool) -> Iterator[Item]:
        """Find checkouts of loom's own of whose runs only records are left, and actions that no kept run uses."""
        needed = [Path(os.path.realpath(one.repo_root)) for one in left if one.reason is None]
        cache = self._project.config.cache_dir
        for path in sorted(path for kind in ("reproductions", "replays", BUNDLES) for path in (cache / kind).glob("*")):
            there = Path(os.path.realpath(path))
            if not any(root.is_relative_to(there) for root in needed) and not self._records.occupied(path):
                why = "of loom's own, of whose runs only records are left"
                yield Item(kind="checkout", name=str(path), bytes=allocated(path), reason=why)
        for path in retention.unused_actions(self._project.config, self._store) if with_actions else ():
            why = "of actions that no kept run uses"
            yield Item(kind="action", name=str(path), bytes=allocated(path), reason=why)

    # -- removal --------------------------------------------------------------------------------------------------

    def remove(self, item: Item) -> None:
        """Remove it, and note in it the problems, if there are any. A container that stays is left."""
        try:
            match item.kind:
                case "run":
                    item.problems = self._remove_run(item)
                case "workspace":
                    item.problems = self._remove_workspace(item)
                case "container" if item.reason is None:
                    return
                case "container":
                    if not (problems := _remove_kept(self._project, item)):
                        del self._containers[item.container_id]
                    item.problems = problems
                case "artifacts":
                    self._store.remove_artifacts(item.run_ids[-1], item.name)
                case _:
                    item.problems = _remove_checkout(item)
        except LoomError as error:
            item.problems = [error.message]
        item.removed = not item.problems

    def _remove_run(self, run: Item) -> list[str]:
        entry = self._store.find(run.name, repo_root=None)
        files = list(map(self._store.lock_of_kept, dict.fromkeys(kept_ids(entry))))
        with ExitStack() as stack:
            for lock in files:
                what, command = f"a kept container of run {entry.run_id}", f"loom clean {entry.run_id}"
                stack.enter_context(locks.held(lock, what, command, alone=True))
            receipt = entry.receipt  # the engine may still have resources of an interrupted run
            in_engine = receipt is None or receipt.status in ("canceled", "error") or bool(receipt.images)
            problems = self._remove_sessions(entry, in_engine=in_engine)
            if not problems:  # a container that is left needs the workspace
                problems = self._remove_directories(run.workspaces)
            if not problems:  # the record last: it locates the rest
                self._store.remove(run.name)
                for lock in files:
                    lock.unlink(missing_ok=True)
        return problems

    def _remove_sessions(self, entry: RunEntry, *, in_engine: bool) -> list[str]:
        """Remove what a run has with each provider, running or kept; return the problems."""
        by_provider: dict[str, list[Job]] = {}
        try:
            for job in PastRun(entry).planned.plan.jobs:
                by_provider.setdefault(job.provider, []).append(job)
        except LoomError:  # an older or damaged record, or one that ended before it had a plan
            by_provider[CONTAINERS] = []
        problems: list[str] = []
        for name, jobs in by_provider.items():
            if name == CONTAINERS and not in_engine:
                continue
            if name not in self._silent:
                try:
                    problems += self._project.provider_named(name).remove_run(entry.run_id, jobs)
                    continue
                except LoomError as error:
                    self._silent[name] = error.message
            # Other resources of a finished run in this machine's engine go by their labels, with or without a record.
            kept_here = any(
                "/" not in container_id for container_id in kept_ids(entry)
            )  # a pod's id is `namespace/name`
            if name != CONTAINERS or kept_here or (jobs and entry.receipt is None):
                problems.append(f"its sessions on {name} are left: {self._silent[name]}")
        return problems

    def _remove_workspace(self, space: Item) -> list[str]:
        """Remove the kept containers of its runs first."""
        problems = [self._unknown[run_id] for run_id in space.run_ids if run_id in self._unknown]
        for one in self._containers.values():
            if one.run_ids[-1] in space.run_ids:
                problems += _remove_kept(self._project, one)
        if not problems and self._in_background and space.is_large:
            # What its jobs left beside it is removed below.
            set_aside(self._store, Path(space.name), Path(space.repo_root))
        return problems or self._remove_directories([space.name])

    def _remove_directories(self, workspaces: Sequence[str]) -> list[str]:
        """Remove them; return the failures with reasons."""
        problems: list[str] = []
        for workspace in map(Path, workspaces):
            removal = snapshot.remove(workspace, recorded=True)  # `vouched` for
            if removal.complete:
                self._store.workspaces.forget(workspace)
            problems += listed((f"{path}: {why}" for path, why in removal.remaining), _MOST_NAMED)
        return problems


def _remove_checkout(item: Item) -> list[str]:
    with snapshot.alone_in(Path(item.name)) as alone:
        if not alone:
            return [f"{item.name} is in use"]
        try:
            shutil.rmtree(item.name)
        except OSError as error:
            return [f"{error.filename}: {error.strerror}"]
    return []


def _expired(entry: RunEntry, now: float) -> Iterator[Item]:
    if entry.receipt is None or entry.receipt.finished_at is None:
        return
    ended = datetime.fromisoformat(entry.receipt.finished_at).timestamp()
    for manifest_path in sorted(entry.paths.logs.glob("jobs/*/manifest.json")):
        try:
            job = read_document(manifest_path, JobManifest)
        except LoomError:
            continue  # records of other versions are skipped
        lifetime = job.artifacts.expire_in_s if job is not None and job.artifacts is not None else None
        job_id = manifest_path.parent.name
        if lifetime is not None and ended + lifetime < now and entry.paths.artifacts_archive(job_id).exists():
            yield Item(kind="artifacts", name=job_id, run_ids=[entry.run_id], job_id=job_id)


def _remove_kept(project: Project, one: Item) -> list[str]:
    """Save the changes in the job's files, then remove its container; return the problems."""
    try:
        job = PastRun(project.store.entry(one.run_ids[-1])).job(str(one.job_id))
        with session.held(project, job, one.container_id, alone=True):
            saved.save(project, job)
            found = session.find_kept(project, job)
            problems = list(found.remove()) if found is not None else []
            if not problems:
                project.store.lock_of_kept(one.container_id).unlink(missing_ok=True)
    except LoomError as error:
        return [error.message]
    return problems
