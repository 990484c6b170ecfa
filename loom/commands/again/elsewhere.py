"""The common parts of `reproduce` and `replay`: images by the digests that ran elsewhere, comparison of a job's two runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from msgspec.structs import replace

from loom.analysis.diagnosis import Diagnosis
from loom.analysis.failure import JobEnding
from loom.analysis.verdict import OF_TAG, Block, LogParting, Reproduction, lines_of, reasons, verdict
from loom.commands.again.server_job import Differences
from loom.commands.project import Worktree
from loom.commands.screen import screen_parts
from loom.errors import ImageError, RequestError
from loom.images.reference import Reference, parse_reference
from loom.plan.model import Image, Job, Plan
from loom.record.event_files import output_in, whole_lines
from loom.record.reader import Reading
from loom.render.output import print_json
from loom.snapshot import occupied
from loom.util.controls import visible
from loom.util.private import make_in_cache

_HELD = ExitStack()


def hold(folder: Path) -> None:
    """Make a folder, if it is not there, and keep `loom clean` from it until this process ends."""
    make_in_cache(folder)
    _HELD.enter_context(occupied(folder))


def pinned_job(job: Job, digests: Mapping[str, str], project: Worktree, differences: Differences) -> Job:
    """Return the job with its images, its services' and those that they build on by these digests.

    `digests`: by the names that the images have in the workflow. Where one can't be had, today's tag runs: `differences` has
    a note of that, and the tags that mean another image here.
    """
    known = {found.name: digest for name, digest in digests.items() if (found := _reference(name)) is not None}

    def pinned(image: Image) -> Image:
        if (build := image.build) is not None:
            bases = {name: pinned(replace(image, name=name, build=None)).name or name for name in known}
            return replace(
                image, build=replace(build, pins={name: exact for name, exact in bases.items() if exact != name})
            )
        found = None if image.name is None else _reference(image.name)
        if found is None or found.digest or (digest := known.get(found.name)) is None:
            return image
        exact = replace(image, name=found.pinned(digest))
        try:
            project.digest_of(job.provider, exact)
            with suppress(ImageError):  # the tag as this machine knows it, with which the job may pass
                today = project.digest_of(job.provider, replace(image, pull="never", pull_else=()))
                if today and digest not in today:
                    differences.add(f"{OF_TAG}{image.name}", digest, today)
        except ImageError as error:
            why = error.message.splitlines()[0]
            differences.note(f"{exact.name} can't be had ({why}): today's {image.name} runs")
            return image
        return exact

    services = tuple(replace(each, image=pinned(each.image)) for each in job.services)
    return replace(job, image=None if job.image is None else pinned(job.image), services=services)


def _reference(name: str) -> Reference | None:
    """Return an image's name, divided; None for a text with variables, or one that names no image."""
    try:
        return parse_reference(name)
    except RequestError:
        return None


def judged(
    origin: str,
    job: Job | None,
    ran: tuple[str, str],
    diagnoses: Sequence[Diagnosis | None],
    endings: Sequence[JobEnding],
    parting: LogParting | None,
    differences: Differences,
    *,
    plan: Callable[[], Plan | None],
) -> Reproduction:
    """Compare a job with a run of it here. `ran`: the ids of both; `diagnoses`, `endings`: there, then here; `job`: None
    gives no reasons.
    """
    job_id, run_id = ran
    kind, text = verdict(endings[0], endings[1], parting)
    return Reproduction(
        origin=origin,
        job_id=job_id,
        run_id=run_id,
        verdict=kind,
        text=text,
        reasons=[] if job is None else reasons(kind, diagnoses, differences.pairs, job, plan),
        there=endings[0],
        here=endings[1],
        parting=parting,
        differs=differences.pairs,
        notes=differences.notes,
    )


def blocks_of_run(reading: Reading, job_id: str, only: str | None = None) -> Iterator[Block]:
    """Yield the steps of the job, each with its output, as its last attempt has it; `only` that which begins so."""
    found = reading.job_manifest(job_id).steps if job_id in reading.fold.jobs else ()
    steps = {each.step: each.command for each in found if each.step.startswith(("before_script/", "script/"))}
    for step, command in steps.items():
        path = reading.unit(job_id, step).events
        if only in (None, (command.strip().splitlines() or [""])[0]) and path.exists():
            yield Block(command, (visible(event.text) for event in whole_lines(output_in(path))))


def tell(found: Reproduction, color: str, *, as_json: bool) -> None:
    """Print the verdict, or its document."""
    if as_json:
        print_json(found)
        return
    look, write = screen_parts(color)
    first, *more = lines_of(found)
    write("")
    write(look.styled(visible(first), "ok" if found.verdict == "reproduced" else "warn"))
    for line in more:
        write(visible(line))
    write(f"go on:   loom shell {found.run_id}, loom diagnose {found.run_id}")
