"""`loom clean`: delete records, workspaces and artifacts (selected, or beyond a limit), and their engine resources."""

from __future__ import annotations

import os
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from datetime import datetime
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from loom import snapshot
from loom.analysis.printed import Clean, CleanedPlace, CleanedRun, CleanedWorkspace, ExpiredArtifacts
from loom.commands.flags import read_flag
from loom.commands.keep import kept, retention
from loom.commands.keep.kept import KeptByRun
from loom.commands.project import Here, here
from loom.errors import EngineUnavailable, LoomError, RequestError
from loom.providers.docker.container.cleanup import kept_containers, remove_run
from loom.providers.docker.engine.connection import Engine
from loom.record.documents import JobManifest
from loom.record.store import RunEntry, read_document
from loom.render.output import print_json
from loom.snapshot import is_occupied, remains
from loom.status import ExitCode
from loom.util.bounded import listed
from loom.util.file_systems import allocated
from loom.util.paths import RUN_PREFIX, run_of_workspace
from loom.util.units import counted, duration, rough_size

_MOST_NAMED = 5


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
    place, runs = here(), runs or ()
    if in_background and not retention.into_background(place.store):
        return ExitCode.OK
    if runs and (keep_last is not None or older_than is not None):
        raise RequestError("name runs, or say which by --keep-last and --older-than; not both")
    with closing(Engine(os.environ, place.config.engine)) as engine:
        there = kept.kept(place, partial(_listed, engine))
        document = _named(place, runs) if runs else _chosen(place, keep_last, older_than, there, everywhere=everywhere)
        if not dry_run:
            document = _Removal(place, engine, there).of_all(document)
            if not runs:
                retention.note_clean(place.store, place.config, place.root)
    if as_json:
        print_json(document)
    else:
        for line in _lines(document):
            print(line)
    tried: list[CleanedRun | CleanedWorkspace | CleanedPlace] = [*document.runs, *document.workspaces, *document.kept]
    failed = any(one.problems for one in tried)
    return ExitCode.INFRASTRUCTURE if failed else ExitCode.OK


def _lines(document: Clean) -> Iterator[str]:
    verb = "would go" if document.dry_run else "removed"

    def what(one: CleanedRun | CleanedWorkspace | CleanedPlace) -> str:
        return "removed" if one.removed else "could not remove" if one.problems else "would remove"

    for gone in document.expired_artifacts:
        would = "would remove" if document.dry_run else "removed"
        yield f"{would} the expired artifacts of {gone.job_id} in {gone.run_id}"
    for run in document.runs:
        yield f"{what(run)} {run.run_id}  {rough_size(run.bytes)}  {run.workspace or ''}".rstrip()
        yield from (f"  {problem}" for problem in run.problems)
    for space in document.workspaces:
        yield f"{what(space)} {space.path}  {rough_size(space.bytes)}: {space.reason}"
        yield from (f"  {problem}" for problem in space.problems)
    for one in document.kept:
        where = f"the container of {one.job_id} in {one.run_id}  {rough_size(one.bytes)}"
        if one.reason is not None:
            yield f"{what(one)} {where}: {one.reason}"
        elif document.dry_run:
            until = datetime.fromisoformat(one.until).astimezone()
            yield f"kept until {until:%Y-%m-%d %H:%M}: {where}" + (f", in use by {one.used_by}" if one.used_by else "")
        yield from (f"  {problem}" for problem in one.problems)
    done = [run for run in document.runs if document.dry_run or run.removed]
    yield f"{len(done)} {verb}, {rough_size(sum(run.bytes for run in done))}"
    if freed := [space for space in document.workspaces if document.dry_run or space.removed]:
        size = rough_size(sum(space.bytes for space in freed))
        yield f"{counted(len(freed), 'workspace')} {verb}, {size}; their records stay"
    for path in document.not_ours:
        yield f"left alone: {path}: no record of this state directory has made it (if it is yours: rm -rf)"


# -- what to remove -----------------------------------------------------------------------------------------------


def _named(place: Here, runs: Sequence[str]) -> Clean:
    families = {family[0].run_id: family for family in place.store.families()}
    entries: dict[str, RunEntry] = {}
    for run in runs:
        named = _permitted(place, run)
        if named.run_id not in families:
            raise RequestError(
                f"{named.run_id} is a child pipeline of run {named.child_of}: nothing was deleted",
                hint=f"they are removed together: loom clean {named.child_of}",
            )
        entries |= {entry.run_id: _permitted(place, entry.run_id) for entry in families[named.run_id]}
    return Clean(dry_run=True, runs=_runs(place, list(entries.values())))


def _permitted(place: Here, run: str) -> RunEntry:
    entry = place.store.find(run, repo_root=place.root)
    if entry.alive:
        raise RequestError(f"run {entry.run_id} is still running: nothing was deleted")
    if _in_use(place, entry):
        raise RequestError(
            f"a shell, or a run that goes on from {entry.run_id}, is in its workspace: nothing was deleted",
            hint="wait for it to end",
        )
    if not place.store.holds(entry):
        raise RequestError(f"{entry.paths.root} is a copy of a record: delete it by hand")
    return entry


def _chosen(
    place: Here, keep_last: int | None, older_than: str | None, there: Sequence[KeptByRun], *, everywhere: bool
) -> Clean:
    cutoff_ns = _cutoff(place, older_than)
    by_limits = keep_last is None and older_than is None
    if keep_last is None:
        keep_last = place.config.keep_runs if older_than is None else 0
    root = None if everywhere else place.root
    families = list(place.store.families(root))
    entries = [entry for family in families for entry in family]
    chosen = [
        family
        for family in families[keep_last:]
        if int(family[0].run_id) < cutoff_ns and not any(entry.goes_on or _in_use(place, entry) for entry in family)
    ]
    if by_limits:
        chosen = list(_not_needed(place, chosen))
    runs = _runs(place, [entry for family in chosen for entry in family])
    if everywhere:
        runs += _without_record(place, cutoff_ns, {run.workspace for run in runs})
    gone = {run.run_id for run in runs}
    return Clean(
        dry_run=True,
        runs=runs,
        expired_artifacts=[
            one for entry in entries if entry.run_id not in gone for one in _expired(entry, time.time())
        ],
        workspaces=list(_beyond(place, runs, root)) if by_limits else [],
        kept=[_kept(one) for one in there if one.entry.run_id not in gone] if by_limits else [],
        not_ours=list(_unknown(place)) if everywhere else [],
    )


def _listed(engine: Engine) -> Mapping[str, tuple[str, str]]:
    try:
        return kept_containers(engine())
    except (EngineUnavailable, RequestError):
        return {}  # what it has is looked for again next time


def _kept(one: KeptByRun) -> CleanedPlace:
    return CleanedPlace(
        run_id=one.entry.run_id,
        job_id=one.job_id,
        container_name=one.container_name,
        until=one.until.isoformat(),
        bytes=one.bytes,
        used_by=one.used_by,
        reason=one.goes,
        removed=False,
        problems=[],
    )


def _cutoff(place: Here, older_than: str | None) -> int:
    """Select runs that began before this time. RequestError for an invalid duration.

    Without a duration these are all that are there, also those that a wrong clock dated into the future.
    """
    if older_than is None:
        return max([time.time_ns(), *(int(run_id) + 1 for run_id in place.store.run_ids()[:1])])
    return time.time_ns() - int(read_flag("--older-than", older_than, duration) * 1e9)


def _in_use(place: Here, entry: RunEntry) -> bool:
    """Whether a resumed run or a process uses one of its workspaces."""
    return any(is_occupied(Path(path)) for path in entry.workspaces) or kept.in_use(place.store, entry)


def _not_needed(place: Here, chosen: Sequence[tuple[RunEntry, ...]]) -> Iterator[tuple[RunEntry, ...]]:
    """Exclude runs that somebody may still enter: with a kept job, and each checkout's newest failed one."""
    failed = retention.newest_failed(family[0] for family in place.store.families())
    for family in chosen:
        if family[0].run_id not in failed and not any(retention.is_kept(entry, now=time.time()) for entry in family):
            yield family


def _runs(place: Here, chosen: Sequence[RunEntry]) -> list[CleanedRun]:
    going = {entry.run_id for entry in chosen}
    needed = {path for entry in place.store.entries() if entry.run_id not in going for path in entry.workspaces}
    claims = {claim.run_id: str(claim.path) for claim in place.store.claims.all() if claim.kind == "run"}
    return [_run(place, entry, needed, claims.get(entry.run_id)) for entry in chosen]


def _run(place: Here, entry: RunEntry, needed: Container[str], claimed: str | None) -> CleanedRun:
    """`needed`: workspaces of remaining runs, such as a resumed one's. `claimed`: what it made, if its record does not tell."""
    workspace = entry.identity.get("workspace")
    if workspace is None and claimed is not None and not is_occupied(Path(claimed)):
        workspace = claimed
    there = [
        path
        for path in dict.fromkeys((*filter(None, (workspace,)), *entry.workspaces))
        if path not in needed and remains(Path(path)) and retention.vouched(place.store, Path(path))
    ]
    return CleanedRun(
        run_id=entry.run_id,
        record=str(entry.paths.root),
        workspace=str(workspace) if workspace in there else None,
        job_workspaces=[path for path in there if path != workspace],
        in_engine=_used_engine(entry),
        bytes=allocated(entry.paths.root, *(left for path in there for left in remains(Path(path)))),
        removed=False,
        problems=[],
    )


def _used_engine(entry: RunEntry) -> bool:
    """Whether the engine may hold resources of it: it used images, or was interrupted."""
    receipt = entry.receipt
    return receipt is None or bool(receipt.get("images")) or receipt.get("status") in ("canceled", "error")


def _without_record(place: Here, cutoff_ns: int, known: set[str | None]) -> Iterator[CleanedRun]:
    """Find claimed workspaces without a record: of `loom snapshot`, or of deleted records."""
    recorded = {entry.run_id for entry in place.store.entries()}
    for one in retention.held(place.store):
        old = recorded.isdisjoint(one.run_ids) and str(one.path) not in known and one.made_at < cutoff_ns
        if old and not is_occupied(one.path):
            yield CleanedRun(
                run_id=run_of_workspace(one.path.name) or "",
                record=None,
                workspace=str(one.path),
                job_workspaces=[],
                in_engine=False,
                bytes=allocated(*remains(one.path)),
                removed=False,
                problems=[],
            )


def _beyond(place: Here, runs: Sequence[CleanedRun], root: Path | None) -> Iterator[CleanedWorkspace]:
    """Find the workspaces beyond the limits; their runs' records stay."""
    with_runs = {path for run in runs for path in (run.workspace, *run.job_workspaces)}
    for one in retention.judged(place.store, place.config, root, now=time.time()):
        if one.goes is not None and str(one.path) not in with_runs:
            yield CleanedWorkspace(
                path=str(one.path),
                run_ids=one.run_ids,
                repo_root=one.repo_root,
                bytes=one.bytes,
                reason=one.goes,
                removed=False,
                problems=[],
            )


def _expired(entry: RunEntry, now: float) -> Iterator[ExpiredArtifacts]:
    """Find existing artifacts that have expired."""
    if entry.receipt is None or not entry.receipt.get("finished_at"):
        return
    ended = datetime.fromisoformat(str(entry.receipt["finished_at"])).timestamp()
    for manifest_path in sorted(entry.paths.logs.glob("jobs/*/manifest.json")):
        try:
            manifest = read_document(manifest_path, JobManifest) or {}
        except LoomError:
            continue  # records of other versions are skipped
        kept = manifest.get("artifacts") or {}
        lifetime, job_id = kept.get("expire_in_s"), manifest_path.parent.name
        if lifetime is not None and ended + lifetime < now and entry.paths.artifacts_archive(job_id).exists():
            yield ExpiredArtifacts(run_id=entry.run_id, job_id=job_id)


def _unknown(place: Here) -> Iterator[str]:
    """Find directories named like workspaces that no loom with this state directory created."""
    for path in sorted(place.config.tmp_dir.glob(f"{RUN_PREFIX}*")):
        if run_of_workspace(path.name) and path in remains(path) and not retention.vouched(place.store, path):
            yield str(path)


# -- removal ------------------------------------------------------------------------------------------------------


class _Removal:
    def __init__(self, place: Here, engine: Engine, there: Sequence[KeptByRun]) -> None:
        self._here = place
        self._store = place.store
        self._engine = engine
        self._kept = there
        self._silent: dict[str, str] = {}
        """The providers that do not answer, with what they said."""

    def of_all(self, document: Clean) -> Clean:
        """Return the document after removal."""
        done = replace(
            document,
            dry_run=False,
            runs=[self._run(run) for run in document.runs],
            kept=[self._place(one) for one in document.kept],
            workspaces=[self._workspace(space) for space in document.workspaces],
        )
        for one in document.expired_artifacts:
            self._store.remove_artifacts(one.run_id, one.job_id)
        self._store.remove_remains()
        retention.forget_gone(self._store)
        return done

    def _run(self, run: CleanedRun) -> CleanedRun:
        problems: list[str] = []
        try:
            with ExitStack() as held:
                if run.record is not None:
                    entry = self._store.find(run.run_id, repo_root=None)
                    held.enter_context(kept.held_alone(self._store, entry))
                    problems += kept.remove_places(self._here, entry, self._silent, in_engine=run.in_engine)
                if not problems:  # a container that is left needs the workspace
                    for workspace in filter(None, (run.workspace, *run.job_workspaces)):
                        problems += self._directory(Path(workspace))
                if run.record is not None and not problems:
                    # The record last, and only when everything else is removed: it locates the rest.
                    self._store.remove(run.run_id)
        except LoomError as error:
            problems.append(error.message)
        return replace(run, removed=not problems, problems=problems)

    def _place(self, one: CleanedPlace) -> CleanedPlace:
        if one.reason is None:
            return one
        problems = [
            problem
            for place in self._kept
            if place.container_name == one.container_name
            for problem in kept.remove(self._here, place, self._from_engine)
        ]
        return replace(one, removed=not problems, problems=problems)

    def _workspace(self, space: CleanedWorkspace) -> CleanedWorkspace:
        """Remove the kept containers of its runs first."""
        problems: list[str] = []
        try:
            if any(map(kept.keeps_here, self._entries(space.run_ids))):
                self._engine()  # only one that answers can tell what of that is still there
            for one in self._kept:
                if one.entry.run_id in space.run_ids and one.goes is None:
                    problems += kept.remove(self._here, one, self._from_engine)
            if not problems:
                problems += self._directory(Path(space.path))
        except LoomError as error:
            problems.append(error.message)
        return replace(space, removed=not problems, problems=problems)

    def _entries(self, run_ids: Sequence[str]) -> Iterator[RunEntry]:
        for run_id in run_ids:
            with suppress(LoomError):  # its record is gone, or damaged
                yield self._store.find(run_id, repo_root=None)

    def _directory(self, workspace: Path) -> list[str]:
        """Remove it; return the failures with reasons."""
        removal = snapshot.remove(workspace, recorded=True)  # `vouched` for
        if removal.complete:
            self._store.claims.forget(workspace)
        return listed((f"{path}: {why}" for path, why in removal.remaining), _MOST_NAMED)

    def _from_engine(self, run_id: str, job_id: str) -> list[str]:
        """Remove what a job has in the engine; return the failures. EngineUnavailable when no engine answers."""
        return [str(left) for left in remove_run(self._engine(), run_id, job_id) if left.problem]
