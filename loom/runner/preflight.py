"""Look, before the first job, for what jobs would lack later: an engine, images, secrets."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec.structs import replace

from loom.config import Config
from loom.config.pools import HERE
from loom.errors import EngineUnavailable, ImageError, InfrastructureError, LoomError, SecretError
from loom.images.dockerfile import bases_of, stages_of
from loom.plan.image_lock import image_of
from loom.plan.model import Image, Job, Plan
from loom.runner.actions import missing_node
from loom.runner.tools import RunTools
from loom.util.units import rough_size
from loom.util.untrusted_files import open_inside

_MAKES_IMAGES = re.compile(r"\b(?:docker|podman|buildah|kaniko)\b")
"""In a job's script or the name of its image: later jobs may run in images that this job makes."""
_LEAST_SPACE = 10_000_000
_QUICK = ("env://", "file://")
"""The beginnings of references to secrets whose stores ask nobody, and answer at once."""


def preflight(plan: Plan, tools: RunTools, done: Collection[str] = ()) -> None:
    """Raise InfrastructureError for what is missing, all at once, before anything starts; what takes time is not looked for.

    The only job of a run is not looked at: it meets what it lacks at once.
    """
    _check_providers(plan, tools)
    if missing := missing_things(plan, tools, done, at_once=True):
        raise together(missing)


def together(missing: Sequence[LoomError]) -> LoomError:
    """Return one error for all of them; the first one's code counts."""
    if len(missing) == 1:
        return missing[0]
    hints = dict.fromkeys(line for error in missing for line in (error.hint or "").splitlines())
    lines = (f"- {error.message}" for error in missing)
    return InfrastructureError(
        "\n".join((f"{len(missing)} things are missing that jobs need:", *lines)),
        hint="\n".join(hints) or None,
        code=missing[0].code,
    )


def missing_things(
    plan: Plan, tools: RunTools, done: Collection[str] = (), *, at_once: bool = False
) -> list[LoomError]:
    """Return an error for each thing that jobs need and that can't be had.

    `at_once`: for a run that begins now, whose only job meets the rest of what it lacks by itself.
    """
    jobs = [job for job in plan.jobs if job.id not in done and _has_to_run(job)]
    node: list[LoomError] = list(filter(None, [missing_node(jobs, tools.config.cache_dir)]))
    if at_once and len(jobs) < 2:
        return node
    return [
        *_missing_space(tools.config),
        *node,
        *_missing_images(jobs, tools),
        *_missing_secrets(jobs, tools),
    ]


def missing_images(plan: Plan, tools: RunTools) -> list[LoomError]:
    """Return an error for each reason why images of the jobs can't be had, or the one of the engine."""
    try:
        return list(_missing_images([job for job in plan.jobs if _has_to_run(job)], tools))
    except EngineUnavailable as error:
        return [error]


def _missing_space(config: Config) -> Iterator[InfrastructureError]:
    for name, path in (("LOOM_TMP_DIR", config.tmp_dir), ("LOOM_STATE_DIR", config.state_dir)):
        with suppress(OSError):  # not there yet
            if (free := shutil.disk_usage(path).free) < _LEAST_SPACE:
                hint = f"make room: loom clean, loom cache rm; {name} names another disk"
                yield InfrastructureError(f"{path}: the disk is full, {rough_size(free)} are free", hint=hint)


def _has_to_run(job: Job) -> bool:
    return (
        job.when in ("on_success", "always")
        and job.is_certain
        and not job.allow_failure.always
        and not job.refused
        and job.trigger is None
    )


def _check_providers(plan: Plan, tools: RunTools) -> None:
    """Raise InfrastructureError where no session can be opened."""
    images = [job.image for job in plan.jobs if job.image is not None]
    optional = images and all(image.build is None and image.name == tools.config.default_image for image in images)
    optional = optional and tools.providers.keys() <= HERE.keys()
    for provider in tools.providers.values():
        try:
            provider.check()
        except EngineUnavailable as error:
            if not optional:
                raise
            # For jobs that name no image: where no engine answers, they could run without one.
            way = "or run jobs that name no image on this machine, without isolation: loom run --no-container"
            raise EngineUnavailable(error.message, hint=f"{error.hint}\n{way}" if error.hint else way) from error


def _missing_images(jobs: Sequence[Job], tools: RunTools) -> Iterator[ImageError]:
    wanted: dict[str, dict[str, tuple[Image, str]]] = {}
    for job in jobs:
        own = [(job.image, job.sources.get("image", ""))] if job.image is not None else []
        own += [(service.image, service.position) for service in job.services]
        own = [(image, position) for one, position in own for image in _taken(one, tools.source.root)]
        for step in job.steps:
            if step.kind == "docker" and step.action is not None:
                folder = Path(step.action.directory or tools.source.root)
                own += [(image, step.position) for image in _taken(image_of(step.action), folder)]
        for image, position in own:
            if image.name is not None and "$" not in image.name:  # not yet reported
                wanted.setdefault(job.provider, {}).setdefault(image.name, (image, position))
        if _may_make_images(job):
            break
    for provider, images in wanted.items():
        resolver = tools.providers[provider].images
        if resolver is not None:
            by_reason: dict[tuple[str, str | None], dict[str, ImageError]] = {}
            for name, error in resolver.absent([image for image, _ in images.values()]).items():
                by_reason.setdefault((error.message, error.hint), {})[name] = error
            for (reason, _), errors in by_reason.items():
                name, error = next(iter(errors.items()))
                text = reason if name in reason else f"{name}: {reason}"
                if len(errors) > 1:
                    text = f"{reason}; images: {', '.join(f'{name} ({images[name][1]})' for name in errors)}"
                found = ImageError(text, hint=error.hint, code=error.code)
                yield found if len(errors) > 1 else found.named_at(images[name][1])


def _taken(image: Image, root: Path) -> Iterator[Image]:
    """Yield the image, or those that its build starts from, as far as its Dockerfile names them."""
    build = image.build
    if build is None:
        yield image
        return
    for path in (root / build.context / build.dockerfile, root / build.dockerfile):
        with suppress(OSError, ValueError, LoomError), open_inside(path, root) as file:
            stages = stages_of(file.read().decode(), args=build.args, predefined={})
            yield from (
                Image(name=name, pull=image.pull, build=build) for name, _ in bases_of(stages, target=build.target)
            )
            return


def _may_make_images(job: Job) -> bool:
    texts = (*(step.script for step in job.steps), job.image.name if job.image is not None else None)
    return job.docker_socket or job.privileged or any(_MAKES_IMAGES.search(text or "") for text in texts)


def _missing_secrets(jobs: Sequence[Job], tools: RunTools) -> Iterator[SecretError]:
    told: set[str] = set()
    for job in jobs:
        quick = tuple(one for one in job.secrets if one.required and one.ref.startswith(_QUICK))
        if not quick:
            continue
        try:
            tools.secrets(replace(job, secrets=quick, services=()))
        except SecretError as error:
            if error.message not in told:
                told.add(error.message)
                yield error
