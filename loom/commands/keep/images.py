"""`loom images`: the workflow's images in the engine, the lock file and the registries."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from loom import snapshot
from loom.cancel import Cancel, signals
from loom.commands.plan.github_sources import lock_actions
from loom.commands.plan.plan_run import planner_of
from loom.commands.project import Project, open_project, say_not_counted
from loom.commands.screen import MaskedProgress
from loom.errors import RequestError
from loom.images.reference import parse_reference
from loom.plan.image_lock import LOCK_PATH, ImageLock, ImageUse, images_of, load_lock, save_lock, shown
from loom.plan.model import JobSelection, Plan
from loom.plan.resolve import resolve
from loom.providers.docker.container.cleanup import prune_builds
from loom.providers.docker.engine.client import Engine
from loom.providers.docker.images.images import Images
from loom.providers.docker.images.named import ResolvedImage
from loom.providers.docker.images.status import Inventory
from loom.record.request import Request
from loom.render.output import print_either, print_kind
from loom.status import ExitCode
from loom.util.globs import match_name
from loom.util.units import counted, duration, read_flag, rough_size


def pull(names: list[str] | None, *, frozen: bool | None, as_json: bool, workflow: Path | None) -> None:
    with _context(workflow, names, frozen=frozen) as context:
        wanted = [named for named in context.inventory.named() if named.pull != "never"]
        progress = MaskedProgress(quiet=as_json)
        images = [context.inventory.pull(named, on_output=progress, cancel=context.cancel) for named in wanted]
        lines = [f"{image.name} {image.digest or image.image_id}" for image in images]
        print_either(as_json, "images", {"images": [_fields(image) for image in images]}, lines)


def lock(
    names: list[str] | None, *, platform: list[str] | None, local: bool, as_json: bool, workflow: Path | None
) -> int:
    with _context(workflow, names) as context:
        before = context.lock or ImageLock()
        after, failed = context.inventory.lock(platform or (), local_only=local)
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
            if not local and any(context.images.local(named.reference, named.platform) for named, _ in failed):
                print(
                    "  Lock what this engine has, without asking a registry: loom images lock --local", file=sys.stderr
                )
            if written or context.lock is not None:
                print(f"{context.lock_path}: {counted(len(after.images), 'image')}{'' if written else ', as before'}")
            else:
                print(f"{context.lock_path} is not written", file=sys.stderr)
        for line in lock_actions(context.project, context.plan):
            print(line, file=sys.stderr if as_json else sys.stdout)
    return ExitCode.INFRASTRUCTURE if failed else ExitCode.OK


def prune(*, older_than: str, as_json: bool) -> None:
    age_s = read_flag("--older-than", older_than, duration)
    project = open_project()
    with closing(Engine(project.environ, project.config.engine)) as engine:
        removed = prune_builds(engine(), before=time.time() - age_s)
    lines = [f"removed {one.name} ({rough_size(one.size)}, with what it shares)" for one in removed]
    nothing = [f"nothing that loom built is older than {older_than}"]
    print_either(as_json, "image-removal", {"removed": list(removed)}, lines or nothing)


class _Context(Struct, kw_only=True):
    project: Project
    plan: Plan
    images: Images
    inventory: Inventory
    lock: ImageLock | None
    cancel: Cancel

    @property
    def lock_path(self) -> Path:
        return self.project.root / LOCK_PATH


@contextmanager
def _context(workflow: Path | None, names: Sequence[str] | None, *, frozen: bool | None = None) -> Iterator[_Context]:
    project = open_project({"frozen": frozen}, root=snapshot.discover(Path.cwd(), environ=os.environ).root)
    say_not_counted(project.config)
    planner = planner_of(project, Request.of({"workflow": workflow}))
    # Include jobs excluded by their rules: naming a job overrides them.
    # Include jobs without an image, in containers: `--frozen` requires a locked default image.
    selection = JobSelection(jobs=tuple(planner.workflow.jobs), if_possible=True, container=True)
    plan = resolve(planner.workflow, selection, planner.context)
    lock = load_lock(project.root / LOCK_PATH)
    cancel = Cancel()
    with signals(cancel), closing(Engine(project.environ, project.config.engine)) as engine:
        images = Images(engine, lock=lock, frozen=project.config.frozen)
        inventory = Inventory(images, _chosen(images_of(plan), names), root=project.root, lock=lock)
        try:
            yield _Context(project=project, plan=plan, images=images, inventory=inventory, lock=lock, cancel=cancel)
        except Exception:
            if cancel.requested:
                raise SystemExit(int(cancel.exit_code or 130)) from None
            raise


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


def _changes(before: ImageLock, after: ImageLock) -> list[dict[str, str | None]]:
    old, new = (
        {(name, platform): one for name, of in lock.images.items() for platform, one in of.items()}
        for lock in (before, after)
    )
    was, now = ({key: one.digest or one.image_id for key, one in entries.items()} for entries in (old, new))
    return [
        {"name": key[0], "platform": key[1], "before": was.get(key), "after": now.get(key)}
        for key in sorted(old | new)
        if old.get(key) != new.get(key)
    ]


def _fields(image: ResolvedImage) -> dict[str, Any]:
    return {
        "name": image.name,
        "digest": image.digest or None,
        "image_id": image.image_id,
        "platform": image.platform,
        "size": image.size,
        "built": image.built,
    }
