"""What `loom clean` deletes, and what `loom doctor` looks at."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct, field
from msgspec.structs import asdict

from loom.commands.project import Here, here
from loom.errors import LoomError, RequestError
from loom.render.output import print_json
from loom.status import ExitCode
from loom.util.bounded import listed
from loom.util.file_systems import file_system_of, in_memory
from loom.util.paths import RUN_PREFIX, run_of_workspace

if TYPE_CHECKING:
    from loom.providers.docker.connection import Engine
    from loom.record.store import RunEntry, Store

_LITTLE_SPACE = 2_000_000_000


class Item(Struct, kw_only=True):
    """One run (or a workspace without one) that goes. `bytes` is what files take on this machine, not in the engine."""

    run_id: str
    record: str | None
    workspace: str | None
    job_workspaces: list[str] = field(default_factory=list)
    """Of jobs that went on in one of their own."""
    in_engine: bool
    bytes: int
    removed: bool = False
    problems: list[str] = field(default_factory=list)


class Space(Struct, kw_only=True):
    """A workspace that goes, while the records of its runs stay."""

    path: str
    run_ids: list[str]
    repo_root: str
    bytes: int
    reason: str
    removed: bool = False
    problems: list[str] = field(default_factory=list)


# -- loom clean ---------------------------------------------------------------------------------------------------


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
    from loom.commands import retention
    from loom.providers.docker.connection import Engine

    place, runs = here(), runs or ()
    if in_background and not retention.into_background(place.store):
        return ExitCode.OK
    cutoff_ns = _cutoff(older_than)
    if runs and (keep_last is not None or older_than is not None):
        raise RequestError("name runs, or say which by --keep-last and --older-than; not both")
    if runs:
        chosen = [_named(place, run) for run in runs]
    else:
        default = place.config.keep_runs if older_than is None else 0
        chosen = _chosen(place, default if keep_last is None else keep_last, cutoff_ns, everywhere=everywhere)
    by_limits = not runs and keep_last is None and older_than is None
    if by_limits:
        chosen = list(_not_needed(place, chosen))
    going = {entry.run_id for entry in chosen}
    needed = {path for entry in place.store.entries() if entry.run_id not in going for path in entry.workspaces}
    items = [_item(place, entry, needed) for entry in chosen]
    if everywhere and not runs:
        items += list(_without_record(place, cutoff_ns, {item.workspace for item in items}))
    spaces = list(_beyond(place, items, everywhere=everywhere)) if by_limits else []
    unknown = list(_unknown(place)) if everywhere and not runs else []
    gone = {item.run_id for item in items}
    stay = [] if runs else list(place.store.entries(None if everywhere else place.root))
    expired = [found for entry in stay if entry.run_id not in gone for found in _expired(entry, time.time())]
    engine = Engine(place.config, os.environ)
    try:
        for item in items:
            if not dry_run and not item.problems:
                _remove(place, item, engine)
        entries = {entry.run_id: entry for entry in place.store.entries()} if spaces and not dry_run else {}
        for space in spaces:
            if not dry_run:
                _remove_space(place, space, [entries[run_id] for run_id in space.run_ids if run_id in entries], engine)
        for run_id, job_id in expired:
            if not dry_run:
                place.store.remove_artifacts(run_id, job_id)
    finally:
        engine.close()
    if as_json:
        from loom.analysis import upkeep

        document = upkeep.Clean(
            dry_run=dry_run,
            runs=[upkeep.CleanedRun(**asdict(item)) for item in items],
            expired_artifacts=[upkeep.ExpiredArtifacts(run_id=run_id, job_id=job_id) for run_id, job_id in expired],
            workspaces=[upkeep.CleanedWorkspace(**asdict(space)) for space in spaces],
            not_ours=unknown,
        )
        print_json(document)
    else:
        for run_id, job_id in expired:
            print(f"{'would remove' if dry_run else 'removed'} the expired artifacts of {job_id} in {run_id}")
        for line in _lines(items, spaces, dry_run=dry_run):
            print(line)
        for path in unknown:
            print(f"left alone: {path}: no record of this state directory has made it (if it is yours: rm -rf)")
    if not dry_run:
        place.store.remove_remains()
        retention.forget_gone(place.store)
    failed = any(item.problems for item in items) or any(space.problems for space in spaces)
    return ExitCode.INFRASTRUCTURE if failed else ExitCode.OK


def _lines(items: Sequence[Item], spaces: Sequence[Space], *, dry_run: bool) -> Iterator[str]:
    from loom.util.units import rough_size

    def what(one: Item | Space) -> str:
        return "removed" if one.removed else "could not remove" if one.problems else "would remove"

    for item in items:
        yield f"{what(item)} {item.run_id}  {rough_size(item.bytes)}  {item.workspace or ''}".rstrip()
        yield from (f"  {problem}" for problem in item.problems)
    for space in spaces:
        yield f"{what(space)} {space.path}  {rough_size(space.bytes)}: {space.reason}"
        yield from (f"  {problem}" for problem in space.problems)
    verb = "would go" if dry_run else "removed"
    done = [item for item in items if dry_run or item.removed]
    yield f"{len(done)} {verb}, {rough_size(sum(item.bytes for item in done))}"
    if freed := [space for space in spaces if dry_run or space.removed]:
        number = f"{len(freed)} {'workspace' if len(freed) == 1 else 'workspaces'}"
        yield f"{number} {verb}, {rough_size(sum(space.bytes for space in freed))}; their records stay"


def _not_needed(place: Here, chosen: Sequence[RunEntry]) -> Iterator[RunEntry]:
    """Without those that somebody may still want to go back into: a kept job's, and each checkout's newest failed one."""
    from loom.commands import retention

    failed = retention.newest_failed(place.store.entries())
    for entry in chosen:
        if entry.run_id not in failed and not retention.is_kept(entry, now=time.time()):
            yield entry


def _beyond(place: Here, items: Sequence[Item], *, everywhere: bool) -> Iterator[Space]:
    """The workspaces beyond the limits, of runs whose records stay."""
    from loom.commands import retention

    with_runs = {path for item in items for path in (item.workspace, *item.job_workspaces)}
    root = None if everywhere else place.root
    for one in retention.judged(place.store, place.config, root, now=time.time()):
        if one.goes is not None and str(one.path) not in with_runs:
            yield Space(
                path=str(one.path), run_ids=one.run_ids, repo_root=one.repo_root, bytes=one.bytes, reason=one.goes
            )


def _remove_space(place: Here, space: Space, runs: Sequence[RunEntry], engine: Engine) -> None:
    """`runs` use the workspace; their kept containers go first."""
    from loom import snapshot
    from loom.commands import retention

    try:
        for entry in runs:
            if retention.is_kept(entry, now=time.time()):
                space.problems += _remove_from_engine(engine, entry.run_id)
        if space.problems:
            return
        removal = snapshot.remove(Path(space.path), recorded=True)
    except LoomError as error:
        space.problems.append(error.message)
        return
    space.problems += listed((f"{path}: {why}" for path, why in removal.remaining), 5)
    space.removed = removal.complete
    if space.removed:
        place.store.claims.forget(Path(space.path))


def _cutoff(older_than: str | None) -> int:
    """Runs that began before this go. RequestError for what is no duration."""
    from loom.util.units import duration

    if older_than is None:
        return time.time_ns()
    try:
        return time.time_ns() - int(duration(older_than) * 1e9)
    except ValueError as error:
        raise RequestError(f"--older-than {older_than}: {error}", hint="such as 30m, 12h, 7d") from error


def _named(place: Here, run: str) -> RunEntry:
    entry = place.store.find(run, repo_root=place.root)
    if entry.alive:
        raise RequestError(f"run {entry.run_id} is still running: nothing was deleted")
    if _in_use(entry):
        raise RequestError(
            f"a shell, or a run that goes on from {entry.run_id}, is in its workspace: nothing was deleted",
            hint="wait for it to end",
        )
    if not place.store.holds(entry):
        raise RequestError(f"{entry.paths.root} is a copy of a record: delete it by hand")
    return entry


def _chosen(place: Here, keep_last: int, cutoff_ns: int, *, everywhere: bool) -> list[RunEntry]:
    entries = list(place.store.entries(None if everywhere else place.root))
    return [
        entry
        for entry in entries[keep_last:]
        if not entry.alive and int(entry.run_id) < cutoff_ns and not _in_use(entry)
    ]


def _in_use(entry: RunEntry) -> bool:
    """By a run that goes on in one of its workspaces, or by somebody who stands in it."""
    from loom.snapshot import is_occupied

    return any(is_occupied(Path(path)) for path in entry.workspaces)


def _expired(entry: RunEntry, now: float) -> Iterator[tuple[str, str]]:
    """(run, job) of artifacts that are there and were not meant to stay any longer."""
    from loom.record.documents import JobManifest
    from loom.record.store import read_document

    if entry.receipt is None or not entry.receipt.get("finished_at"):
        return
    ended = datetime.fromisoformat(str(entry.receipt["finished_at"])).timestamp()
    for manifest_path in sorted(entry.paths.logs.glob("jobs/*/manifest.json")):
        try:
            manifest = read_document(manifest_path, JobManifest) or {}
        except LoomError:
            continue  # another version's record is not this command's matter
        kept = manifest.get("artifacts") or {}
        lifetime, job_id = kept.get("expire_in_s"), manifest_path.parent.name
        if lifetime is not None and ended + lifetime < now and entry.paths.artifacts_archive(job_id).exists():
            yield entry.run_id, job_id


def _item(place: Here, entry: RunEntry, needed: Container[str]) -> Item:
    """`needed`: workspaces of runs that stay, such as one that went on in this one's."""
    from loom.commands import retention
    from loom.snapshot import remains
    from loom.util.file_systems import allocated

    there = [
        path
        for path in entry.workspaces
        if path not in needed and remains(Path(path)) and retention.vouched(place.store, Path(path))
    ]
    workspace = entry.identity.get("workspace")
    return Item(
        run_id=entry.run_id,
        record=str(entry.paths.root),
        workspace=str(workspace) if workspace in there else None,
        job_workspaces=[path for path in there if path != workspace],
        in_engine=_used_engine(entry),
        bytes=allocated(entry.paths.root, *(left for path in there for left in remains(Path(path)))),
    )


def _used_engine(entry: RunEntry) -> bool:
    """Whether there may be something in the engine: a run that had images, or that did not come to its own end."""
    receipt = entry.receipt
    return receipt is None or bool(receipt.get("images")) or receipt.get("status") in ("canceled", "error")


def _without_record(place: Here, cutoff_ns: int, known: set[str | None]) -> Iterator[Item]:
    """Workspaces that this state directory has claimed, and that no record names: `loom snapshot`'s, or the record is gone."""
    from loom.commands import retention
    from loom.snapshot import is_occupied, remains
    from loom.util.file_systems import allocated

    recorded = {entry.run_id for entry in place.store.entries()}
    for one in retention.held(place.store):
        old = recorded.isdisjoint(one.run_ids) and str(one.path) not in known and one.made_at < cutoff_ns
        if old and not is_occupied(one.path):
            yield Item(
                run_id=run_of_workspace(one.path.name) or "",
                record=None,
                workspace=str(one.path),
                in_engine=False,
                bytes=allocated(*remains(one.path)),
            )


def _unknown(place: Here) -> Iterator[str]:
    """What is named like a workspace, where they are made, and was not made by a loom with this state directory."""
    from loom.commands import retention
    from loom.snapshot import remains

    for path in sorted(place.config.tmp_dir.glob(f"{RUN_PREFIX}*")):
        if run_of_workspace(path.name) and path in remains(path) and not retention.vouched(place.store, path):
            yield str(path)


def _remove(place: Here, item: Item, engine: Engine) -> None:
    from loom import snapshot

    try:
        if item.in_engine:
            item.problems += _remove_from_engine(engine, item.run_id)
        for workspace in filter(None, (item.workspace, *item.job_workspaces)):
            removal = snapshot.remove(Path(workspace), recorded=True)  # `vouched` for
            item.problems += listed((f"{path}: {why}" for path, why in removal.remaining), 5)
            if removal.complete:
                place.store.claims.forget(Path(workspace))
        if item.record is not None and not item.problems:
            # Last, and only when nothing else is left: the record knows where the rest is.
            place.store.remove(item.run_id)
    except LoomError as error:
        item.problems.append(error.message)
    item.removed = not item.problems


def _remove_from_engine(engine: Engine, run_id: str) -> list[str]:
    """What could not be removed. Without an engine that answers there is nothing that could be: what was kept is gone with it."""
    from loom.errors import EngineUnavailable
    from loom.providers.docker.cleanup import remove_run

    try:
        client = engine()
    except (EngineUnavailable, RequestError):
        return []
    return [str(left) for left in remove_run(client, run_id) if left.problem]


def clean_later(store: Store, environ: Mapping[str, str], root: Path) -> None:
    """Do what `loom clean` does in a process of its own that nobody waits for: a run's end is not the moment to delete files."""
    if len(store.claims.all()) < 2:
        return
    with suppress(OSError):  # the next run's end tries again
        subprocess.Popen(
            # -P: a folder `loom` of the repository is not what is run.
            [sys.executable, "-P", "-m", "loom", "clean", "--in-background"],
            cwd=root,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )


# -- loom doctor --------------------------------------------------------------------------------------------------


class Finding(Struct, frozen=True, kw_only=True):
    """`state` is ok, warn or bad."""

    name: str
    state: Literal["ok", "warn", "bad"]
    text: str
    advice: str | None = None


def doctor(*, as_json: bool) -> int:
    from loom.commands.screen import screen_parts

    place = here()
    findings = list(_findings(place))
    if as_json:
        from loom.analysis import upkeep

        document = upkeep.Doctor(checks=[upkeep.Check(**asdict(found)) for found in findings])
        print_json(document)
    else:
        look, write = screen_parts(place.config.color)
        for found in findings:
            style = {"ok": "ok", "warn": "warn"}.get(found.state, "bad")
            write(f"{look.styled(look.marks[style], style)} {found.name}: {found.text}")
            for line in (found.advice or "").splitlines():
                write(f"    {line}")
    return ExitCode.INFRASTRUCTURE if any(found.state == "bad" for found in findings) else ExitCode.OK


def _findings(place: Here) -> Iterator[Finding]:
    yield from _configuration(place)
    yield _git()
    yield _repository(place)
    yield from _engine(place)
    for name, path in (
        ("state directory", place.config.state_dir),
        ("workspaces", place.config.tmp_dir),
        ("caches", place.config.cache_dir),
    ):
        yield _directory(name, path)
    yield _kept_workspaces(place)
    yield _records(place)


def _kept_workspaces(place: Here) -> Finding:
    """How much they hold, and what would go."""
    from loom.commands import retention
    from loom.util.units import rough_size

    found = retention.judged(place.store, place.config, place.root, now=time.time())
    total, most = sum(one.bytes for one in found), retention.size_limit(place.config)
    number = "1 workspace" if len(found) == 1 else f"{len(found)} workspaces"
    text = f"{number}, {rough_size(total)} of at most {rough_size(most)}"
    places = sorted({str(one.path.parent) for one in found})
    text += f", in {', '.join(places)}" if places else ""
    if going := [one for one in found if one.goes is not None]:
        text += f"; {len(going)} of them, {rough_size(sum(one.bytes for one in going))}, go when the next run ends"
        return Finding(name="kept workspaces", state="ok", text=text, advice="which, and why: loom clean --dry-run")
    return Finding(name="kept workspaces", state="ok", text=text)


def _records(place: Here) -> Finding:
    from loom.util.file_systems import allocated
    from loom.util.units import rough_size

    number = len(place.store.run_ids())
    size = rough_size(allocated(place.store.runs_dir))
    text = f"{number} {'run' if number == 1 else 'runs'}, {size}, with their artifacts and checkpoints"
    return Finding(name="records", state="ok", text=f"{text}; {place.config.keep_runs} of each checkout stay")


def _configuration(place: Here) -> Iterator[Finding]:
    from loom.commands.project import not_counted

    for name, line in not_counted(place.config).items():
        yield Finding(name=f"setting {name}", state="warn", text=line)


def _git() -> Finding:
    try:
        version = subprocess.run(
            ["git", "--version"], capture_output=True, text=True, check=True, timeout=60
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        return Finding(name="git", state="bad", text=f"can't be run: {error}", advice="install git 2.30 or newer")
    return Finding(name="git", state="ok", text=version.removeprefix("git version "))


def _repository(place: Here) -> Finding:
    from loom import snapshot

    try:
        source = snapshot.discover(place.root, environ=os.environ)
    except LoomError as error:
        return Finding(name="repository", state="warn", text=error.message, advice=error.hint)
    workflow = source.root / ".loom" / "workflow.yml"
    if not workflow.exists():
        return Finding(
            name="repository", state="warn", text=f"{source.root} has no {workflow.relative_to(source.root)}",
            advice="`loom check` shows what a first one looks like",
        )  # fmt: skip
    return Finding(name="repository", state="ok", text=str(source.root))


def _engine(place: Here) -> Iterator[Finding]:
    from loom.providers.docker.capabilities import Traits
    from loom.providers.docker.connection import Engine
    from loom.providers.docker.endpoint import endpoint_of

    engine = Engine(place.config, os.environ)
    try:
        client: Any = engine()
        info = client.info()
        traits = Traits(client, info)
    except LoomError as error:
        yield Finding(name="engine", state="bad", text=error.message, advice=error.hint)
        return
    except Exception as error:  # noqa: BLE001  whatever the engine's client raises is a finding
        yield Finding(name="engine", state="bad", text=f"does not answer as it should: {error}")
        return
    try:
        kind = f"rootless {traits.name}" if traits.rootless and "rootless" not in traits.name else traits.name
        yield Finding(
            name="engine",
            state="ok",
            text=f"{kind} {traits.version}, {info.get('OperatingSystem')}, {info.get('Driver')}, "
            f"at {endpoint_of(engine.environ)}",
        )
        if unenforced := traits.unenforced():
            yield Finding(
                name="limits", state="warn", text=f"the engine does not enforce {', '.join(unenforced)}",
                advice="a rootless engine needs cgroup v2 and the delegation of these controllers to its user",
            )  # fmt: skip
        yield _image(client, place.config.default_image)
        yield _container(client, place)
        yield _made_images(client)
        endpoint = endpoint_of(engine.environ)
        if endpoint.local and info.get("DockerRootDir") and os.path.isdir(info["DockerRootDir"]):  # noqa: PTH112
            yield _space("engine's disk", Path(info["DockerRootDir"]))
    finally:
        engine.close()


def _image(client: Any, name: str) -> Finding:
    try:
        found = client.images.get(name)
    except Exception:  # noqa: BLE001  not here, for whatever reason: the advice is the same
        return Finding(
            name="default image", state="warn", text=f"{name} is not on this machine",
            advice=f"it is pulled when a job needs it; now: docker pull {name}",
        )  # fmt: skip
    return Finding(name="default image", state="ok", text=f"{name}, {str(found.id)[:19]}")


def _made_images(client: Any) -> Finding:
    """What loom itself has put on the engine's disk."""
    from loom.providers.docker import checkpoint, labels
    from loom.util.units import rough_size

    try:
        made = client.api.images(labels.BUILD_REPOSITORY)
        checkpoints = client.api.images(checkpoint.REPOSITORY)
    except Exception as error:  # noqa: BLE001  whatever the engine's client raises is a finding
        return Finding(name="images", state="warn", text=f"the engine does not list them: {error}")
    size = sum(int(image["Size"]) for image in {image["Id"]: image for image in (*made, *checkpoints)}.values())
    text = f"{len(made)} built, {len(checkpoints)} of checkpoints, up to {rough_size(size)} (layers are shared)"
    return Finding(name="images", state="ok", text=f"{text}; loom images prune removes old built ones")


def _container(client: Any, place: Here) -> Finding:
    from loom.providers.docker.probe import probe

    image = place.config.default_image
    try:
        started = probe(client, image, place.config.tmp_dir)
    except (LoomError, OSError) as error:
        return Finding(name="container", state="bad", text=str(error), advice=getattr(error, "hint", None))
    if started is None:
        return Finding(
            name="container", state="warn", text="not tried: the engine has no image to start one from",
            advice=f"get one, then ask again: docker pull {image}",
        )  # fmt: skip
    text = f"one of {started.image} started, wrote into a workspace and was removed, {started.duration_ms:.0f} ms"
    return Finding(name="container", state="ok", text=text)


def _directory(name: str, path: Path) -> Finding:
    """Writable, with room; made if it is not there, as a run would."""
    above = next((folder for folder in (path, *path.parents) if folder.exists()), path)
    if not os.access(above, os.W_OK | os.X_OK):
        return Finding(
            name=name, state="bad", text=f"{path} can't be written",
            advice="give permission there, or name another place (`loom config show --origin`)",
        )  # fmt: skip
    found = _space(name, above, shown=path)
    if name == "workspaces" and found.state == "ok" and in_memory(above):
        return Finding(
            name=name, state="warn", text=f"{found.text}; it is in memory ({file_system_of(above)})",
            advice="for workspaces on disk: `tmp_dir: /var/tmp` in ~/.config/loom/config.yml",
        )  # fmt: skip
    return found


def _space(
    name: str, path: Path, *, shown: Path | None = None, usage: Callable[[Path], Any] = shutil.disk_usage
) -> Finding:
    from loom.util.units import rough_size

    free = usage(path).free
    text = f"{shown or path}, {rough_size(free)} free"
    if free < _LITTLE_SPACE:
        advice = "make room: loom clean, loom cache prune, loom images prune"
        return Finding(name=name, state="bad" if free < _LITTLE_SPACE / 10 else "warn", text=text, advice=advice)
    return Finding(name=name, state="ok", text=text)
