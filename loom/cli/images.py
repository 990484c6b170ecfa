"""`loom images`: the workflow's images, here, in the lock and in their registries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loom.cli.options import WorkflowFile
from loom.render.output import print_json, table
from loom.util.units import counted, duration, rough_age, rough_size

if TYPE_CHECKING:
    from loom.cancel import Cancel
    from loom.config import Config
    from loom.plan.image_lock import ImageLock, ImageUse
    from loom.providers.docker.image_status import Inventory, Row
    from loom.providers.docker.images import Images, ResolvedImage
    from loom.status import Stream
    from loom.workflow import Workflow

_NAMES = typer.Argument(metavar="IMAGE", help="Only these images, or those of these jobs (names or globs).")
_JSON = typer.Option("--json", help="Print JSON.")
_FROZEN = typer.Option("--frozen", help="Only what .loom/images.lock names.")


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="See, have and pin the images that the workflow runs in.", no_args_is_help=True)
    group.command("ls")(ls)
    group.command("pull")(pull)
    group.command("build")(build)
    group.command("lock")(lock)
    group.command("verify")(verify)
    group.command("export")(export)
    group.command("import")(import_)
    group.command("prune")(prune)
    app.add_typer(group, name="images")


def ls(
    names: Annotated[list[str] | None, _NAMES] = None,
    json: Annotated[bool, _JSON] = False,
    workflow: WorkflowFile = None,
) -> None:
    """List every image of the workflow: where it is used, and what of it is here."""
    from loom.providers.docker.image_status import as_json

    with _context(workflow, names) as context:
        with context.files() as root:
            rows = context.inventory(root).rows()
        if json:
            print_json([as_json(row) for row in rows])
        elif not rows:
            print("no job of the workflow runs in an image")
        else:
            for line in _table(rows, context.now):
                print(line)


def pull(
    names: Annotated[list[str] | None, _NAMES] = None,
    frozen: Annotated[bool, _FROZEN] = False,
    json: Annotated[bool, _JSON] = False,
    workflow: WorkflowFile = None,
) -> None:
    """Pull what the registries serve now, or what the lock says; also what builds start from."""
    with _context(workflow, names, frozen=frozen) as context:
        inventory = context.inventory()
        wanted = [named for named in inventory.named() if named.pull != "never"]
        had = [inventory.pull(named, on_output=context.hear(json), cancel=context.cancel) for named in wanted]
        _report(had, json)


def build(
    names: Annotated[list[str] | None, _NAMES] = None,
    frozen: Annotated[bool, _FROZEN] = False,
    json: Annotated[bool, _JSON] = False,
    workflow: WorkflowFile = None,
) -> None:
    """Build the images that the workflow builds, from a snapshot as a run does."""
    with _context(workflow, names, frozen=frozen) as context:
        wanted = [use for use in context.uses if use.image.build is not None]
        had = []
        if wanted:
            values = context.secrets_of(wanted)
            with context.snapshot() as workspace:
                for use, secrets in zip(wanted, values, strict=True):
                    hear = context.hear(json, hidden=secrets)
                    had.append(
                        context.images.resolve(
                            use.image, workspace=workspace, on_output=hear, cancel=context.cancel, secrets=secrets
                        )
                    )
        elif not json:
            print("the workflow builds no image")
        _report(had, json)


def lock(
    names: Annotated[list[str] | None, _NAMES] = None,
    platform: Annotated[
        list[str] | None, typer.Option("--platform", metavar="P", help="Lock for this platform too (linux/arm64).")
    ] = None,
    local: Annotated[bool, typer.Option("--local", help="Lock what is on this engine, and ask no registry.")] = False,
    json: Annotated[bool, _JSON] = False,
    workflow: WorkflowFile = None,
) -> None:
    """Write .loom/images.lock: what the registries serve now is what runs use from then on."""
    from loom.plan.image_lock import ImageLock, save_lock

    with _context(workflow, names) as context:
        before = context.lock or ImageLock()
        after, failed = context.inventory().lock(platform or (), local_only=local)
        if names:
            # Only some were asked for: what the lock says of the others stays.
            after = ImageLock(images={**before.images, **after.images})
        changes = _changes(before, after)
        if changes or (context.lock is None and not failed):
            save_lock(context.lock_path, after)
        if json:
            problems = [{"name": named.name, "platform": named.platform, "problem": why} for named, why in failed]
            print_json({"path": str(context.lock_path), "changes": changes, "problems": problems})
        else:
            for change in changes:
                print(
                    f"{change['name']} ({change['platform']}): {change['before'] or 'new'} -> {change['after'] or 'gone'}"
                )
            for named, why in failed:
                _err(f"{named.name} ({named.platform}) is not locked: {why}")
            if not local and any(context.images.local(named.reference, named.platform) for named, _ in failed):
                _err("  Lock what this engine has, without asking a registry: loom images lock --local")
            print(f"{context.lock_path}: {counted(len(after.images), 'image')}{'' if changes else ', as before'}")
        if failed:
            raise SystemExit(3)


def verify(
    names: Annotated[list[str] | None, _NAMES] = None,
    json: Annotated[bool, _JSON] = False,
    workflow: WorkflowFile = None,
) -> None:
    """Compare the images here with what the registries serve now and what the lock says.

    Ends with 0 when all are the same, 1 when one differs, 3 when it can't be told.
    """
    from loom.providers.docker.image_status import exit_code_of

    with _context(workflow, names) as context:
        verified = context.inventory().verify()
        if json:
            print_json(
                [
                    {
                        "name": one.name,
                        "platform": one.platform,
                        "verdict": one.verdict.value,
                        "reason": one.reason,
                        "local_digest": one.facts.local_digest or None,
                        "image_id": one.facts.local_id or None,
                        "served_digest": one.facts.served or None,
                        "locked_digest": (one.facts.locked.digest or None) if one.facts.locked else None,
                        "locked_image_id": (one.facts.locked.image_id or None) if one.facts.locked else None,
                    }
                    for one in verified
                ]
            )
        else:
            width = max((len(one.name) for one in verified), default=0)
            for one in verified:
                print(f"{one.verdict.value:<8} {one.name:<{width}}  {one.reason}")
            if not verified:
                print("the workflow has no image that a registry could serve")
        raise SystemExit(exit_code_of(verified))


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Compressed where it ends in .gz or .zst.")],
    names: Annotated[list[str] | None, _NAMES] = None,
    json: Annotated[bool, _JSON] = False,
    workflow: WorkflowFile = None,
) -> None:
    """Write the workflow's images into one file, for a machine that reaches no registry."""
    from loom.errors import ImageError
    from loom.plan.image_lock import shown
    from loom.providers.docker.archive import export_images

    with _context(workflow, names) as context:
        context.refuse_in_snapshot(file)
        missing: list[str] = []
        chosen: dict[tuple[str, str], ResolvedImage] = {}
        for image in context.to_export(missing.append):
            chosen[image.name, image.image_id] = image
        if missing:
            raise ImageError(
                f"not on this engine: {', '.join(missing)}",
                hint="Have them first: `loom images pull`, `loom images build`.",
                code="IMAGE_NOT_PRESENT",
            )
        if not chosen:
            raise ImageError(
                "there is no image to export", hint=f"Known: {', '.join(shown(u.image) for u in context.uses)}"
            )
        size = export_images(context.images.client, list(chosen.values()), file)
        if json:
            print_json(
                {"path": str(file.absolute()), "size": size, "images": [_fields(one) for one in chosen.values()]}
            )
        else:
            for image in chosen.values():
                print(f"{image.name} {image.image_id}")
            print(f"{file}: {counted(len(chosen), 'image')}, {rough_size(size)}")


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `loom images export` wrote.")],
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Load the images of an export into this machine's engine."""
    import os

    from loom.providers.docker.archive import import_images
    from loom.providers.docker.client import connect

    client = connect(_environ(None, os.environ))
    try:
        images = import_images(client, file)
    finally:
        client.close()
    if json:
        print_json(
            [{"name": image.name, "image_id": image.image_id, "digest": image.digest or None} for image in images]
        )
    else:
        for image in images:
            print(f"{image.name} {image.image_id}")


def prune(
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="TIME", help="Only what was not used for this long.")
    ] = "30d",
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Remove images that loom built and that no run has used for a while."""
    import os
    import time

    from loom.errors import RequestError
    from loom.providers.docker.cleanup import prune_builds
    from loom.providers.docker.client import connect

    try:
        age_s = duration(older_than)
    except ValueError as error:
        raise RequestError(f"--older-than {older_than}: {error}") from None
    client = connect(_environ(None, os.environ))
    try:
        removed = prune_builds(client, before=time.time() - age_s)
    finally:
        client.close()
    if json:
        print_json([{"name": one.name, "image_id": one.image_id, "size": one.size} for one in removed])
    else:
        for one in removed:
            print(f"removed {one.name} ({rough_size(one.size)}, with what it shares)")
        if not removed:
            print(f"nothing that loom built is older than {older_than}")


class _Context:
    """What the commands share: the plan's images, the lock, and the engine."""

    def __init__(
        self,
        *,
        uses: Sequence[ImageUse],
        images: Images,
        lock: ImageLock | None,
        lock_path: Path,
        root: Path,
        source: Any,
        settings: Config,
        written: Workflow,
        job_names: Mapping[str, str],
        cancel: Cancel,
        now: float,
    ) -> None:
        self.uses = uses
        self.images = images
        self.lock = lock
        self.lock_path = lock_path
        self.root = root
        self.cancel = cancel
        self.now = now
        self._source = source
        self._settings = settings
        self._written = written
        self._job_names = job_names

    def inventory(self, root: Path | None = None) -> Inventory:
        from loom.providers.docker.image_status import Inventory

        return Inventory(self.images, self.uses, root=root or self.root, lock=self.lock)

    @contextmanager
    def files(self) -> Iterator[Path]:
        """Where builds' files are: whether a build is up to date shows in a snapshot only, and only builds are worth one."""
        if any(use.image.build is not None for use in self.uses):
            with self.snapshot() as workspace:
                yield workspace
        else:
            yield self.root

    def refuse_in_snapshot(self, file: Path) -> None:
        """RequestError for a file that every later snapshot would hold, and that builds would see as a change."""
        from loom import snapshot
        from loom.errors import RequestError

        place, root = file.parent.resolve() / file.name, self.root.resolve()
        if root not in place.parents:
            return
        path = place.relative_to(root).as_posix()
        if not path.startswith(".git/") and not snapshot.ignored(self._source, [path], rules_in_index=True):
            raise RequestError(
                f"{file} would be part of every snapshot of this repository: git does not ignore it",
                hint=f"write it beside the repository ({Path('..', file.name)}), or to a place that .gitignore names",
                code="IMAGE_EXPORT_IN_SNAPSHOT",
            )

    def hear(self, quiet: bool, hidden: Mapping[str, bytes] = MappingProxyType({})) -> Callable[[Stream, bytes], None]:
        import sys

        from loom.secrets.masking import Masker
        from loom.util import controls

        masker = Masker(hidden)
        controls.hide = masker.mask  # errors come after it

        def on_output(_stream: Stream, data: bytes) -> None:
            # Progress goes to standard error, so that a pipe reads the result alone.
            if not quiet:
                sys.stderr.write(masker.mask_bytes(data).decode("utf-8", "replace"))
                sys.stderr.flush()

        return on_output

    def secrets_of(self, uses: Sequence[ImageUse]) -> list[Mapping[str, bytes]]:
        """For each image the values that its build may mount, once the user allows that the jobs have them."""
        import os

        from loom.commands import trust
        from loom.plan.model import Job
        from loom.secrets.lookup import resolve

        wanted = [use.image.build.secrets if use.image.build is not None else () for use in uses]
        asking = [
            Job(id=name, name=name, stage="", steps=(), provider="docker", secrets=secrets)
            for use, secrets in zip(uses, wanted, strict=True)
            for name in dict.fromkeys(self._job_names[user.partition("/")[0]] for user in use.used_by)
        ]
        requests = trust.requests_of(asking, self._settings, self.root, os.environ, self._written)
        requests = tuple(request for request in requests if request.job)
        trust.settle(requests, self._settings, self.root, os.environ, flag=False)
        return [
            resolve(secrets, environ=os.environ, root=self.root, config=self._settings).values for secrets in wanted
        ]

    @contextmanager
    def snapshot(self) -> Iterator[Path]:
        import tempfile

        from loom import snapshot

        with tempfile.TemporaryDirectory(prefix="loom-images-", dir=self._settings.tmp_dir) as folder:
            workspace = Path(folder, "workspace")
            workspace.mkdir()
            snapshot.take(self._source, workspace, cancel=self.cancel)
            self.images.identity_of = partial(snapshot.identity_of, self._source, workspace)
            yield workspace

    def to_export(self, missing: Callable[[str], None]) -> Iterator[ResolvedImage]:
        """Direct images, what builds made under both of its names, and what builds start from: a machine that has all
        of them can run, and can see that nothing has to be built."""
        from msgspec.structs import replace

        from loom.plan.image_lock import shown

        builds = [use.image for use in self.uses if use.image.build is not None]
        with self.files() as root:
            for named in self.inventory(root).named():
                found = self.images.present(named.name, named.platform)
                if found is None:
                    missing(named.name)
                else:
                    yield found
            for image in builds:
                tag = self.images.build_tag(image, workspace=root)
                found = self.images.find(image, workspace=root)
                if found is None or tag is None:
                    missing(shown(image))
                    continue
                yield replace(found, name=tag)
                if image.name is not None:
                    yield found


@contextmanager
def _context(workflow: Path | None, names: Sequence[str] | None, *, frozen: bool = False) -> Iterator[_Context]:
    import os
    import time

    from loom import snapshot
    from loom.cancel import Cancel, signals
    from loom.commands import project, trust
    from loom.plan import model as plans
    from loom.plan.image_lock import LOCK_PATH, images_of, load_lock
    from loom.providers.docker.client import connect
    from loom.providers.docker.images import Images
    from loom.workflow import load

    environ = dict(os.environ)
    source = snapshot.discover(Path.cwd(), environ=environ)
    settings = project.configured(source.root, environ, {"frozen": frozen or None})
    trust.say_not_counted(settings)
    written = load(project.workflow_path(source.root, workflow, Path.cwd()), source.root)
    # Every job, also one that its rules leave out today: naming a job overrides them.
    # In containers, also those that name no image: the default one is theirs then, and has to be locked for `--frozen`.
    selection = plans.Selection(jobs=tuple(written.jobs), container=True)
    plan = plans.resolve(written, selection, project.resolve_context(source.root, settings, environ))
    environ = _environ(settings, environ)
    lock_path = source.root / LOCK_PATH
    lock = load_lock(lock_path)
    images = Images(lambda: connect(environ), environ=environ, lock=lock, frozen=settings.frozen)
    cancel = Cancel()
    with signals(cancel):
        try:
            yield _Context(
                uses=_chosen(images_of(plan), names),
                images=images,
                lock=lock,
                lock_path=lock_path,
                root=source.root,
                source=source,
                settings=settings,
                written=written,
                job_names={job.id: job.name for job in plan.jobs},
                cancel=cancel,
                now=time.time(),
            )
        except Exception:
            if cancel.requested:
                raise SystemExit(int(cancel.exit_code or 130)) from None
            raise
        finally:
            images.close()


def _environ(settings: Config | None, environ: Any) -> dict[str, str]:
    """The engine that the configuration names is the engine for everything below, as `DOCKER_HOST` would have it."""
    engine = settings.engine if settings is not None else None
    return {**environ, "DOCKER_HOST": engine} if engine else dict(environ)


def _chosen(uses: Sequence[ImageUse], names: Sequence[str] | None) -> list[ImageUse]:
    from fnmatch import fnmatchcase

    from loom.errors import RequestError
    from loom.images.reference import parse_reference
    from loom.plan.image_lock import shown

    if not names:
        return list(uses)

    def called(use: ImageUse) -> set[str]:
        own = {shown(use.image), *use.used_by, *(user.partition("/")[0] for user in use.used_by)}
        return own | {parse_reference(use.image.name).name} if use.image.name else own

    chosen = [use for use in uses if any(fnmatchcase(name, pattern) for name in called(use) for pattern in names)]
    unknown = [
        pattern for pattern in names if not any(fnmatchcase(name, pattern) for use in uses for name in called(use))
    ]
    if unknown:
        known = ", ".join(shown(use.image) for use in uses) or "none"
        raise RequestError(f"the workflow has no image {', '.join(unknown)}", hint=f"Its images are: {known}")
    return chosen


def _table(rows: Sequence[Row], now: float) -> list[str]:
    from loom.images.reference import short

    head = ("IMAGE", "HERE", "DIGEST", "SIZE", "AGE", "LOCKED", "USED BY")
    cells = []
    for row in rows:
        image = row.image
        here = "yes" if row.present else "no"
        if row.kind == "build":
            here = "built" if row.present else "to build"
        cells.append(
            (
                row.name,
                here,
                (short(image.digest) if image.digest else "-") if image else "-",
                rough_size(image.size) if image else "-",
                _age(image.created, now) if image else "-",
                "yes" if row.locked else "-",
                ", ".join(row.used_by) + (f" ({row.problem})" if row.problem else ""),
            )
        )
    return table([head, *cells])


def _age(created: str, now: float) -> str:
    from datetime import datetime

    try:
        made = datetime.fromisoformat(created)
    except ValueError:
        return "-"
    seconds = max(0.0, now - made.timestamp())
    # An image without a date says year 1; reproducible builds say 1970. Neither is an age.
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


def _report(had: Sequence[ResolvedImage], json: bool) -> None:
    if json:
        print_json([_fields(image) for image in had])
    else:
        for image in had:
            print(f"{image.name} {image.digest or image.image_id}")


def _err(line: str) -> None:
    import sys

    print(line, file=sys.stderr)
