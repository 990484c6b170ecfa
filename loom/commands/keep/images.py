"""`loom images`: the workflow's images in the engine, the lock file and the registries."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import Struct

from loom import snapshot
from loom.cancel import Cancel, signals
from loom.commands import project
from loom.commands.keep import trusting
from loom.commands.project import Here
from loom.commands.run import contexts, planning
from loom.commands.run.github_sources import lock_actions
from loom.commands.screen import MaskedProgress
from loom.errors import RequestError
from loom.images.reference import parse_reference, short
from loom.plan.image_lock import LOCK_PATH, ImageLock, ImageUse, images_of, load_lock, save_lock, shown
from loom.plan.model import Job, JobSelection, Plan
from loom.plan.resolve import resolve as resolve_plan
from loom.providers.docker.container.cleanup import prune_builds
from loom.providers.docker.engine.connection import Engine
from loom.providers.docker.images import status as image_status
from loom.providers.docker.images.images import Images
from loom.providers.docker.images.status import Inventory, Row
from loom.providers.docker.images.store import ResolvedImage
from loom.render.output import print_either, print_kind, table
from loom.secrets.lookup import resolve
from loom.snapshot import Source
from loom.status import ExitCode
from loom.util.globs import match_name
from loom.util.units import counted, duration, read_flag, rough_age, rough_size
from loom.workflow.loaded import Loaded


def ls(names: list[str] | None, *, as_json: bool, workflow: Path | None) -> None:
    """`loom images ls`."""
    with _context(workflow, names) as context:
        rows = context.inventory().rows()
        lines = _table(rows, time.time()) if rows else ["no job of the workflow runs in an image"]
        print_either(as_json, "image-list", {"images": [image_status.as_json(row) for row in rows]}, lines)


def pull(names: list[str] | None, *, frozen: bool | None, as_json: bool, workflow: Path | None) -> None:
    """`loom images pull`."""
    with _context(workflow, names, frozen=frozen) as context:
        inventory = context.inventory()
        wanted = [named for named in inventory.named() if named.pull != "never"]
        progress = MaskedProgress(quiet=as_json)
        images = [inventory.pull(named, on_output=progress, cancel=context.cancel) for named in wanted]
        _report(images, as_json)


def build(names: list[str] | None, *, frozen: bool | None, as_json: bool, workflow: Path | None) -> None:
    """`loom images build`."""
    with _context(workflow, names, frozen=frozen) as context:
        wanted = [use for use in context.uses if use.image.build is not None]
        images = []
        if wanted:
            values = context.secrets_of(wanted)
            with context.snapshot() as workspace:
                for use, secrets in zip(wanted, values, strict=True):
                    on_output = MaskedProgress(secrets, quiet=as_json)
                    images.append(
                        context.images.resolve(
                            use.image, workspace=workspace, on_output=on_output, cancel=context.cancel, secrets=secrets
                        )
                    )
        elif not as_json:
            print("the workflow builds no image")
        _report(images, as_json)


def lock(
    names: list[str] | None, *, platform: list[str] | None, local: bool, as_json: bool, workflow: Path | None
) -> int:
    """`loom images lock`."""
    with _context(workflow, names) as context:
        before = context.lock or ImageLock()
        after, failed = context.inventory().lock(platform or (), local_only=local)
        if names:
            # Keep the entries of images that were not selected.
            after = ImageLock(images={**before.images, **after.images})
        changes = _changes(before, after)
        written = changes or (context.lock is None and not failed)
        if written:
            save_lock(context.lock_path, after)
        if as_json:
            problems = [{"name": named.name, "platform": named.platform, "problem": why} for named, why in failed]
            locked = {"path": str(context.lock_path), "changes": changes, "problems": problems}
            print_kind("image-locking", locked)
        else:
            for change in changes:
                print(
                    f"{change['name']} ({change['platform']}): {change['before'] or 'new'} -> {change['after'] or 'gone'}"
                )
            for named, why in failed:
                print(f"{named.name} ({named.platform}) is not locked: {why}", file=sys.stderr)
            if not local and any(context.images.store.local(named.reference, named.platform) for named, _ in failed):
                print(
                    "  Lock what this engine has, without asking a registry: loom images lock --local", file=sys.stderr
                )
            if written or context.lock is not None:
                print(f"{context.lock_path}: {counted(len(after.images), 'image')}{'' if written else ', as before'}")
            else:
                print(f"{context.lock_path} is not written", file=sys.stderr)
        for line in lock_actions(context.here, context.plan):
            print(line, file=sys.stderr if as_json else sys.stdout)
    return ExitCode.INFRASTRUCTURE if failed else ExitCode.OK


def prune(*, older_than: str, as_json: bool) -> None:
    """`loom images prune`."""
    age_s = read_flag("--older-than", older_than, duration)
    here = project.here()
    with closing(Engine(here.environ, here.config.engine)) as engine:
        removed = prune_builds(engine(), before=time.time() - age_s)
    lines = [f"removed {one.name} ({rough_size(one.size)}, with what it shares)" for one in removed]
    nothing = [f"nothing that loom built is older than {older_than}"]
    print_either(as_json, "image-removal", {"removed": list(removed)}, lines or nothing)


class _Context(Struct, kw_only=True):
    """The plan's images, the lock file and the engine, for one command."""

    here: Here
    source: Source
    written: Loaded
    plan: Plan
    job_names: Mapping[str, str]
    uses: Sequence[ImageUse]
    images: Images
    lock: ImageLock | None
    cancel: Cancel

    @property
    def root(self) -> Path:
        return self.source.root

    @property
    def lock_path(self) -> Path:
        return self.root / LOCK_PATH

    def inventory(self) -> Inventory:
        return Inventory(self.images.store, self.uses, root=self.root, lock=self.lock)

    def secrets_of(self, uses: Sequence[ImageUse]) -> list[Mapping[str, bytes]]:
        """Resolve the secrets for each image's build, once the user allows them."""
        wanted = [use.image.build.secrets if use.image.build is not None else () for use in uses]
        asking = [
            Job(id=name, name=name, stage="", steps=(), provider="docker", secrets=secrets)
            for use, secrets in zip(uses, wanted, strict=True)
            for name in dict.fromkeys(self.job_names[user.partition("/")[0]] for user in use.used_by)
        ]
        requests = trusting.requests_of(asking, self.here, lambda: self.written)
        requests = tuple(request for request in requests if request.job)
        trusting.settle(requests, self.here, flag=False)
        return [
            resolve(
                secrets, environ=os.environ, root=self.root, config=self.here.config, judged=self.here.judged
            ).values
            for secrets in wanted
        ]

    @contextmanager
    def snapshot(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="loom-images-", dir=self.here.config.tmp_dir) as folder:
            workspace = Path(folder, "workspace")
            workspace.mkdir()
            snapshot.take(self.source, workspace, cancel=self.cancel)
            self.images.identity_of = partial(snapshot.identity_of, self.source, workspace)
            yield workspace


@contextmanager
def _context(workflow: Path | None, names: Sequence[str] | None, *, frozen: bool | None = None) -> Iterator[_Context]:
    source = snapshot.discover(Path.cwd(), environ=os.environ)
    here = project.here({"frozen": frozen}, root=source.root)
    project.say_not_counted(here.config)
    path = here.workflow(workflow)
    context = contexts.resolve_context(here, path)
    written = planning.load(here, path, lambda: context)
    # Include jobs excluded by their rules: naming a job overrides them.
    # Include jobs without an image, in containers: `--frozen` requires a locked default image.
    selection = JobSelection(jobs=tuple(written.jobs), container=True)
    plan = resolve_plan(written, selection, context)
    lock = load_lock(source.root / LOCK_PATH)
    engine = Engine(here.environ, here.config.engine)
    images = Images(engine, lock=lock, frozen=here.config.frozen)
    cancel = Cancel()
    with signals(cancel):
        try:
            yield _Context(
                here=here,
                source=source,
                written=written,
                plan=plan,
                job_names={job.id: job.name for job in plan.jobs},
                uses=_chosen(images_of(plan), names),
                images=images,
                lock=lock,
                cancel=cancel,
            )
        except Exception:
            if cancel.requested:
                raise SystemExit(int(cancel.exit_code or 130)) from None
            raise
        finally:
            engine.close()


def _chosen(uses: Sequence[ImageUse], names: Sequence[str] | None) -> list[ImageUse]:
    if not names:
        return list(uses)

    def called(use: ImageUse) -> set[str]:
        own = {shown(use.image), *use.used_by, *(user.partition("/")[0] for user in use.used_by)}
        return own | {parse_reference(use.image.name).name} if use.image.name else own

    chosen = [use for use in uses if any(match_name(pattern, *called(use)) for pattern in names)]
    unknown = [pattern for pattern in names if not any(match_name(pattern, *called(use)) for use in uses)]
    if unknown:
        known = ", ".join(shown(use.image) for use in uses) or "none"
        raise RequestError(f"the workflow has no image {', '.join(unknown)}", hint=f"Its images are: {known}")
    return chosen


def _table(rows: Sequence[Row], now: float) -> list[str]:
    cells = [("IMAGE", "HERE", "DIGEST", "SIZE", "AGE", "LOCKED", "USED BY")]
    for row in rows:
        image = row.image
        cells.append(
            (
                row.name,
                "build" if row.kind == "build" else "yes" if image is not None else "no",
                short(image.digest) if image is not None and image.digest else "-",
                rough_size(image.size) if image is not None else "-",
                _age(image.created, now) if image is not None else "-",
                "yes" if row.locked else "-",
                ", ".join(row.used_by) + (f" ({row.problem})" if row.problem else ""),
            )
        )
    return table(cells)


def _age(created: str, now: float) -> str:
    try:
        made = datetime.fromisoformat(created)
    except ValueError:
        return "-"
    seconds = max(0.0, now - made.timestamp())
    # An image without a date has year 1; reproducible builds have 1970. Neither is an age.
    if made.year < 1980:
        return "-"
    return rough_age(seconds)


def _changes(before: ImageLock, after: ImageLock) -> list[dict[str, str | None]]:
    entries = {
        (name, platform): None
        for lock in (before, after)
        for name, platforms in lock.images.items()
        for platform in platforms
    }
    changes: list[dict[str, str | None]] = []
    for name, platform in sorted(entries):
        old = before.images.get(name, {}).get(platform)
        new = after.images.get(name, {}).get(platform)
        if old != new:
            was = (old.digest or old.image_id) if old is not None else None
            now = (new.digest or new.image_id) if new is not None else None
            changes.append({"name": name, "platform": platform, "before": was, "after": now})
    return changes


def _fields(image: ResolvedImage) -> dict[str, Any]:
    return {
        "name": image.name,
        "digest": image.digest or None,
        "image_id": image.image_id,
        "platform": image.platform,
        "size": image.size,
        "built": image.built,
    }


def _report(images: Sequence[ResolvedImage], as_json: bool) -> None:
    lines = [f"{image.name} {image.digest or image.image_id}" for image in images]
    print_either(as_json, "images", {"images": [_fields(image) for image in images]}, lines)
