"""All records of a user, outside of workspaces: no job can see them. `<workspace>/.loom/.runtime` is a link to the run's."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import msgspec

from loom.errors import RecordError, RequestError
from loom.record import derive
from loom.record.documents import KNOWN_SCHEMAS, Document, Receipt, plain
from loom.record.event_files import folded, other_schema
from loom.record.events import parsed
from loom.record.run_paths import RunPaths
from loom.record.run_record import RUNTIME_LINK, TAG, RunRecord, write_document
from loom.record.workspace_registry import WorkspaceRegistry
from loom.util import jsons, processes, typed
from loom.util.paths import half_removed, run_of_workspace
from loom.util.private import make_private
from loom.util.untrusted_files import read_regular
from loom.values import Immutable

D = TypeVar("D", bound=Document)
RUNNING = "running"
DETACHED = "detached"
"""No loom follows the run, and its jobs go on elsewhere (`loom attach`)."""
INTERRUPTED = "interrupted"
"""Loom was killed, or the machine went down, before the end of the run."""
GOES_ON = (RUNNING, DETACHED)
UNFINISHED = (*GOES_ON, INTERRUPTED)
UNREADABLE = "unreadable"
"""The run has ended, and another loom made its record, or it was edited."""
_BEGINS_WITHIN_NS = 60 * 10**9
"""After this time, a record without the draft of an identity has no loom that is about to write it."""


class RunEntry(Immutable):
    """One run in the store. `receipt` is None while it runs, or when loom was killed."""

    paths: RunPaths
    identity: Mapping[str, Any]
    receipt: Receipt | None
    alive: bool

    @property
    def run_id(self) -> str:
        return self.paths.run_id

    @property
    def child_of(self) -> str | None:
        """The run that started this one as a child pipeline."""
        return self.identity.get("child_of")

    @property
    def workspaces(self) -> list[str]:
        """The run's workspace, then those of resumed jobs; they may no longer exist."""
        named = (self.identity.get("workspace"), *self.identity.get("job_workspaces", {}).values())
        return list(dict.fromkeys(path for path in named if path))

    @property
    def goes_on(self) -> bool:
        """Return whether jobs of it may run: nothing of it may be removed."""
        return self.state in GOES_ON

    @property
    def state(self) -> str:
        """A status, or `running`, `detached`, `interrupted` or `unreadable`."""
        if self.receipt is not None:
            return str(self.receipt.status)
        if os.path.lexists(self.paths.receipt):
            return UNREADABLE
        return RUNNING if self.alive else DETACHED if self.identity.get("detached") else INTERRUPTED


class Store:
    """All records of a user. Reads change nothing."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self.runs_dir = state_dir / "runs"
        self.snapshots_dir = state_dir / "snapshots"
        self.container_locks_dir = state_dir / "container-locks"
        self.groups_dir = state_dir / "groups"
        self.workspaces = WorkspaceRegistry(state_dir)

    def has_record(self, entry: RunEntry) -> bool:
        """Return whether its record is in this store: copies, and files of jobs in a workspace, are untrusted."""
        return Path(os.path.realpath(entry.paths.root)).parent == Path(os.path.realpath(self.runs_dir))

    def lock_of_kept(self, kept_id: str) -> Path:
        """Return the lock file of a kept container or pod (`util.locks`)."""
        return self.container_locks_dir / f"{kept_id.replace('/', '.')}.lock"

    def lock_of_group(self, project: str, group: str) -> Path:
        """Return the lock file of a project's resource group (`util.locks`)."""
        name = hashlib.sha256(f"{project}\n{group}".encode()).hexdigest()
        return self.groups_dir / f"{name[:32]}.lock"

    def _make(self) -> None:
        with contextlib.suppress(OSError):  # a later write reports the reason
            make_private(self._state_dir)

    def new(self, run_id: str) -> RunRecord:
        self._make()
        return RunRecord(RunPaths(root=self.runs_dir / run_id, run_id=run_id))

    def add_snapshot(self, workspace: Path, manifest: bytes) -> None:
        """Keep the manifest of a workspace without a run, outside the reach of jobs. OSError on failure."""
        self._make()
        self.snapshots_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        kept = parsed(manifest) | {"workspace": os.fsencode(os.path.realpath(workspace)).hex()}
        write_document(self._kept_manifest(workspace), jsons.encode_file(kept))

    def manifest_of(self, workspace: Path) -> Path | None:
        """Return the manifest from `add_snapshot`."""
        kept = self._kept_manifest(workspace)
        return kept if _workspace_in(kept) == os.path.realpath(workspace) else None

    def run_in(self, workspace: Path) -> RunEntry | None:
        """Find the run that recorded this workspace."""
        with contextlib.suppress(RecordError):
            if (run_id := run_of_workspace(workspace.name)) and _is_of(workspace, entry := self.entry(run_id)):
                return entry
        return None

    def _kept_manifest(self, workspace: Path) -> Path:
        return self.snapshots_dir / f"{workspace.name}.json"

    def run_ids(self) -> list[str]:
        """Return the ids, newest first: an id is the start time in nanoseconds."""
        return run_ids(self.runs_dir)

    def entry(self, run_id: str) -> RunEntry:
        """Read a record's head. RecordError if it is missing or unreadable."""
        return entry_at(RunPaths(root=self.runs_dir / run_id, run_id=run_id))

    def entries(self, repo_root: Path | None = None) -> Iterator[RunEntry]:
        """Yield runs, newest first, of one checkout or all. Damaged records are skipped."""
        for run_id in self.run_ids():
            try:
                entry = self.entry(run_id)
            except RecordError:
                continue
            if repo_root is None or str(repo_root) in (
                entry.identity.get("repo_root"),
                entry.identity.get("workspace"),
            ):
                yield entry

    def families(self, repo_root: Path | None = None) -> Iterator[tuple[RunEntry, ...]]:
        """Yield runs as `entries` does, each with the runs of its child pipelines, and of theirs, after it."""
        recorded = set(self.run_ids())
        children: dict[str, list[RunEntry]] = {}

        def family_of(entry: RunEntry) -> Iterator[RunEntry]:
            yield entry
            for child in reversed(children.pop(entry.run_id, [])):
                yield from family_of(child)

        for entry in self.entries(repo_root):
            if entry.child_of is not None and entry.child_of < entry.run_id and entry.child_of in recorded:
                children.setdefault(entry.child_of, []).append(entry)
            else:
                yield tuple(family_of(entry))

    def remove(self, run_id: str) -> None:
        """Delete a record. RecordError when its run is alive, when it is not loom's, or on failure."""
        root = self.runs_dir / run_id
        if not os.path.lexists(root):
            return  # another process deleted it
        try:
            ours = read_regular(root / "CACHEDIR.TAG") == TAG.encode()
        except OSError:
            ours = False
        if not ours or root.is_symlink():
            raise RecordError(f"{root} has no mark of loom's (CACHEDIR.TAG): nothing was deleted")
        identity = _identity_at(root / "run.json")
        if identity is not None and is_alive(identity):
            raise RecordError(f"run {run_id} is still running: nothing was deleted")
        going = half_removed(root)
        with _deleting(root):
            if going.exists():
                shutil.rmtree(going)
            root.rename(going)
            shutil.rmtree(going)

    def remove_remains(self) -> None:
        """Delete remains of interrupted removals and beginnings, and manifests of removed workspaces. RecordError on failure."""
        for root in self._unbegun():
            shutil.rmtree(root, ignore_errors=True)
        for going in self.runs_dir.glob(half_removed(Path("*")).name):
            run_id = going.name.removeprefix(".").partition(".")[0]
            if is_run_id(run_id) and going.is_dir() and not going.is_symlink():
                with _deleting(going):
                    shutil.rmtree(going)
        for kept in [] if self.snapshots_dir.is_symlink() else self.snapshots_dir.glob("*.json"):
            workspace = _workspace_in(kept)
            if workspace is not None and not os.path.lexists(workspace):
                with contextlib.suppress(OSError):  # another process is deleting it
                    kept.unlink()

    def _unbegun(self) -> Iterator[Path]:
        """Find the directories of looms that were killed before the first event; nothing else exists of them."""
        for run_id in self.run_ids():
            paths = RunPaths(root=self.runs_dir / run_id, run_id=run_id)
            young = abs(time.time_ns() - int(run_id)) < _BEGINS_WITHIN_NS
            with contextlib.suppress(OSError):  # another process is deleting it
                begun = paths.identity.exists() or paths.receipt.exists()
                begun = begun or (paths.logs.exists() and not paths.draft_of_identity.exists())
                who = _identity_at(paths.draft_of_identity)
                dead = not young if who is None else not is_alive(who)
                if not begun and dead:
                    yield paths.root

    def remove_artifacts(self, run_id: str, job_id: str) -> None:
        """Delete a job's artifacts; the manifest still lists them. RecordError on failure."""
        paths = RunPaths(root=self.runs_dir / run_id, run_id=run_id)
        with _deleting(paths.artifacts(job_id)):
            if paths.artifacts(job_id).exists():
                shutil.rmtree(paths.artifacts(job_id))
            paths.artifacts_archive(job_id).unlink(missing_ok=True)

    def find(self, wanted: str, *, repo_root: Path | None) -> RunEntry:
        """Find the run named `wanted`: an id, a unique prefix or suffix, a path, `last` or `last-failed`.

        A path may be a workspace, a record, its `logs/<run_id>` or a receipt, also copied. RequestError if none or
        several match.
        """
        if not wanted:
            raise RequestError("the name of the run is empty", hint="`loom runs` lists them", code="RUN_UNKNOWN")
        if wanted in ("last", "last-failed"):
            return self._last(failed=wanted == "last-failed", repo_root=repo_root)
        if "/" in wanted or os.path.exists(wanted):  # noqa: PTH110  a name may be too long for Path.exists
            return entry_for_path(Path(wanted), self)
        fitting = [run_id for run_id in self.run_ids() if run_id.startswith(wanted)]
        fitting = fitting or [run_id for run_id in self.run_ids() if run_id.endswith(wanted)]
        if len(fitting) == 1 or wanted in fitting:
            return self.entry(wanted if wanted in fitting else fitting[0])
        if not fitting:
            word = "" if wanted[:1].isdigit() else shlex.quote(wanted)
            of_a_job = (
                word and f"; of a job of that name: `loom logs {word}`, `loom diagnose {word}`, `loom run {word}`"
            )
            hint = f"`loom runs` lists them{of_a_job}"
            raise RequestError(f"no run is named {wanted!r}", hint=hint, code="RUN_UNKNOWN")
        raise RequestError(
            f"{wanted!r} could be any of {len(fitting)} runs: {', '.join(fitting[:4])}{' …' if len(fitting) > 4 else ''}",
            hint="give more of the id",
            code="RUN_AMBIGUOUS",
        )

    def _last(self, *, failed: bool, repo_root: Path | None) -> RunEntry:
        for entry, *_ in self.families(repo_root):
            if not failed or entry.state not in ("success", RUNNING):
                return entry
        of = f" of {repo_root}" if repo_root else ""
        what = f"no {'failed run' if failed else 'run'}{of} yet"
        raise RequestError(what, hint="`loom runs --all` lists every run", code="RUN_UNKNOWN")


@contextlib.contextmanager
def _deleting(path: Path) -> Iterator[None]:
    """Turn the errors of a deletion into RecordError; what another process is deleting is no error."""
    try:
        yield
    except FileNotFoundError:
        pass
    except OSError as error:
        raise RecordError(f"{error.filename or path} can't be deleted: {error.strerror or error}") from error


def _workspace_in(kept: Path) -> str | None:
    """Return the workspace of a kept manifest; None if invalid."""
    try:
        document = parsed(read_regular(kept))
        return os.fsdecode(bytes.fromhex(document["workspace"])) if document["kind"] == "loom-snapshot" else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_run_id(name: str) -> bool:
    """Return whether it is a time in nanoseconds within the calendar's range."""
    return name.isascii() and name.isdigit() and len(name) <= 20


def run_ids(folder: Path) -> list[str]:
    """Return the ids of the records in a folder, the newest first."""
    with contextlib.suppress(OSError):
        return sorted((path.name for path in folder.iterdir() if is_run_id(path.name)), key=int, reverse=True)
    return []


def entry_at(paths: RunPaths) -> RunEntry:
    """Read a record's identity and receipt, which its events replace if damaged. RecordError for a missing or foreign record."""
    identity = _identity_at(paths.identity)
    receipt = read_document(paths.receipt, Receipt)
    if receipt is None and os.path.lexists(paths.receipt):
        receipt = _folded_receipt(paths)
    begins = not paths.events.exists() or paths.draft_of_identity.exists()
    if identity is None and receipt is None and begins:
        raise RecordError(f"{paths.root} holds no record of a loom run", hint="`loom runs` lists the runs there are")
    identity = identity or {"run_id": paths.run_id, "repo_root": receipt and receipt.repo_root}
    return RunEntry(paths=paths, identity=identity, receipt=receipt, alive=receipt is None and is_alive(identity))


def _folded_receipt(paths: RunPaths) -> Receipt | None:
    """Derive the receipt of a finished run from its events; None if they have no end."""
    try:
        fold = folded(paths)
        return None if fold.status is None else typed.convert(plain(derive.receipt(fold)), Receipt)
    except (RecordError, ValueError):
        return None


def entry_for_path(path: Path, store: Store) -> RunEntry:
    shown, path = path, Path(os.path.realpath(os.path.expanduser(path)))  # noqa: PTH111  which raises for no user's name
    if not os.path.exists(path):  # noqa: PTH110
        raise RequestError(f"{shown} does not exist", hint="`loom runs` lists the runs there are", code="RUN_UNKNOWN")
    if path.is_file():
        return _entry_for_receipt(path, store)
    # A job may plant a record in its workspace: prefer the store's.
    if (entry := store.run_in(path)) is not None:
        return entry
    if not os.access(path, os.R_OK | os.X_OK):
        raise RequestError(
            f"{shown}: you may not look into this directory",
            hint="ask as the user who made it, or give yourself the rights: chmod u+rwx",
        )
    record = Path(os.path.realpath(path / RUNTIME_LINK))
    if record.exists() and not record.is_relative_to(path):  # the run used another state directory
        linked = _entry_in(record)
        if linked is not None and _is_of(path, linked):
            return linked
    elif run_of_workspace(path.name) is None:
        for root in (path, *path.parents[:2]):
            if (found := _entry_in(root)) is not None:
                return found
    for entry in store.entries():
        if _is_of(path, entry):
            return entry
    raise RequestError(
        f"{shown} is neither a loom workspace nor a run's record",
        hint="`loom runs` lists the runs there are; a workspace is what `loom run` and `loom snapshot` print",
        code="RUN_UNKNOWN",
    )


def _entry_in(root: Path) -> RunEntry | None:
    ids = run_ids(root / "logs")
    return entry_at(RunPaths(root=root.resolve(), run_id=ids[0])) if len(ids) == 1 else None


def _is_of(workspace: Path, entry: RunEntry) -> bool:
    return os.path.realpath(workspace) in map(os.path.realpath, entry.workspaces)


def _entry_for_receipt(path: Path, store: Store) -> RunEntry:
    receipt = read_document(path, Receipt)
    if receipt is None or not is_run_id(receipt.run_id):
        raise RecordError(f"{path} is not a receipt of a loom run")
    run_id, root = receipt.run_id, path.resolve().parent.parent
    if (root / "logs" / run_id).is_dir():  # read a copied record in place
        return entry_at(RunPaths(root=root, run_id=run_id))
    with contextlib.suppress(RecordError):
        return store.entry(run_id)
    raise RecordError(
        f"{path} tells of run {run_id}, but its record ({receipt.logs_dir}) is not on this machine",
        hint="copy the whole record (the directory above receipts/) along with the receipt",
    )


def read_document(path: Path, kind: type[D]) -> D | None:
    """Read a document and check its types; None if missing or damaged. RecordError for one with an unknown schema."""
    try:
        shape = parsed(read_regular(path))
    except (OSError, ValueError):
        return None
    version = shape.get("schema_version")
    if isinstance(version, str) and version.startswith("loom.") and version not in KNOWN_SCHEMAS:
        raise other_schema(version, path)
    try:
        return typed.convert(shape, kind)
    except ValueError:
        return None


class _Identity(TypedDict, total=False):
    """The fields of `run.json` that readers use; it may hold more."""

    detached: bool
    run_id: str
    repo_root: str | None
    workspace: str | None
    command: list[str]
    job_workspaces: dict[str, str]
    child_of: str | None
    pid: int
    pid_started: str
    boot_id: str


def _identity_at(path: Path) -> dict[str, Any] | None:
    """Read the identity; None if missing or damaged."""
    try:
        identity = parsed(read_regular(path))
        typed.convert(identity, _Identity)
    except (OSError, ValueError, msgspec.ValidationError):
        return None
    paths = [identity.get("repo_root"), identity.get("workspace"), *identity.get("job_workspaces", {}).values()]
    return None if any("\0" in path for path in paths if path) else identity


def is_alive(identity: Mapping[str, Any]) -> bool:
    """Return whether the loom that wrote `identity` still runs on this machine."""
    pid = identity.get("pid")
    return isinstance(pid, int) and processes.is_alive(
        pid, began=str(identity.get("pid_started")), boot=str(identity.get("boot_id"))
    )
