"""Look, before the first job, for what jobs would lack later: an engine, images, secrets."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

from msgspec.structs import replace

from loom.config.pools import HERE
from loom.errors import EngineUnavailable, ImageError, InfrastructureError, SecretError
from loom.plan.model import Image, Job, Plan
from loom.runner.session import JobTools

_MAKES_IMAGES = re.compile(r"\b(?:docker|podman|buildah|kaniko)\b")
"""In a job's script or the name of its image: later jobs may run in images that this job makes."""
_QUICK = ("env://", "file://")
"""The beginnings of references to secrets whose stores ask nobody, and answer at once."""


def preflight(plan: Plan, tools: JobTools, done: Collection[str] = ()) -> None:
    """Raise InfrastructureError for what is missing, all at once, before anything starts; what takes time is not looked for.

    The only job of a run is not looked at: it meets what it lacks at once.
    """
    _check_providers(plan, tools)
    jobs = [job for job in plan.jobs if job.id not in done and _has_to_run(job)]
    if len(jobs) < 2:
        return
    missing = [*_missing_images(jobs, tools), *_missing_secrets(jobs, tools)]
    if len(missing) == 1:
        raise missing[0]
    if missing:
        hints = dict.fromkeys(line for error in missing for line in (error.hint or "").splitlines())
        lines = (f"- {error.message}" for error in missing)
        raise InfrastructureError(
            "\n".join((f"{len(missing)} things are missing that jobs need:", *lines)),
            hint="\n".join(hints) or None,
            code=missing[0].code,
        )


def _has_to_run(job: Job) -> bool:
    return (
        job.when in ("on_success", "always")
        and job.is_certain
        and not job.allow_failure.always
        and not job.refused
        and job.trigger is None
    )


def _check_providers(plan: Plan, tools: JobTools) -> None:
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


def _missing_images(jobs: Sequence[Job], tools: JobTools) -> Iterator[ImageError]:
    wanted: dict[str, dict[str, tuple[Image, str]]] = {}
    for job in jobs:
        own = [(job.image, job.sources.get("image", ""))] if job.image is not None else []
        own += [(service.image, service.position) for service in job.services]
        for image, position in own:
            if image.name is not None and image.build is None and "$" not in image.name:  # not yet reported
                wanted.setdefault(job.provider, {}).setdefault(image.name, (image, position))
        if _may_make_images(job):
            break
    for provider, images in wanted.items():
        resolver = tools.providers[provider].images
        if resolver is not None:
            by_reason: dict[str, dict[str, ImageError]] = {}
            for name, error in resolver.absent([image for image, _ in images.values()]).items():
                by_reason.setdefault(error.message, {})[name] = error
            for reason, errors in by_reason.items():
                name, error = next(iter(errors.items()))
                text = reason if name in reason else f"{name}: {reason}"
                if len(errors) > 1:
                    text = f"{reason}; images: {', '.join(f'{name} ({images[name][1]})' for name in errors)}"
                found = ImageError(text, hint=error.hint, code=error.code)
                yield found if len(errors) > 1 else found.named_at(images[name][1])


def _may_make_images(job: Job) -> bool:
    texts = (*(step.script for step in job.steps), job.image.name if job.image is not None else None)
    return job.docker_socket or job.privileged or any(_MAKES_IMAGES.search(text or "") for text in texts)


def _missing_secrets(jobs: Sequence[Job], tools: JobTools) -> Iterator[SecretError]:
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
