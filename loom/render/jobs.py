"""Render the list of a workflow's jobs."""

from __future__ import annotations

from itertools import chain
from textwrap import TextWrapper
from typing import Literal

from loom.record.documents import Document
from loom.render.output import table
from loom.util.bounded import by_reason


class LeftOutJob(Document):
    id: str
    reason: str


class ListedJob(Document):
    id: str
    name: str
    stage: str
    runs: str
    """When it runs; empty: after the jobs before it have succeeded."""
    image: str | None
    """None: it runs on this machine, or the image is not known (`incomplete`)."""
    image_here: bool | None
    """Whether the engine has the image; None: unknown, or built by loom."""
    needs: list[str] | None
    """None: it waits for all earlier stages."""


class JobsDocument(Document):
    """The document of `loom jobs --json`."""

    schema_version: Literal["loom.jobs.v1"] = "loom.jobs.v1"
    kind: Literal["jobs"] = "jobs"
    workflow_path: str
    incomplete: str | None = None
    """What could not be read, and why; None: all was."""
    jobs: list[ListedJob]
    left_out: list[LeftOutJob]


_STATE = {True: " (here)", False: " (to pull)", None: ""}


_NARROW = 60
"""Columns in which the cells of a job do not fit beside each other."""


def job_lines(document: JobsDocument, columns: int | None) -> list[str]:
    """Return one line for each job, and those that a run leaves out by the reason.

    `columns`: those of the terminal, which no line is wider than; a narrow one has several lines a job.
    """
    rows = [("stage", "job", "image", "needs", "when")]
    none = "none: on this machine" if document.incomplete is None else "not known"
    for job in document.jobs:
        image = (job.image or none) + _STATE[job.image_here]
        needs = "" if job.needs is None else ", ".join(job.needs) or "nothing"
        rows.append((job.stage, job.id, image, needs, job.runs))
    left_out = by_reason((item.id, item.reason) for item in document.left_out)
    below = [f"left out: {', '.join(ids)}: {reason}" for reason, ids in left_out.items()]
    if not document.jobs:
        listed = [f"no job of {document.workflow_path} would run"]
    elif columns is None or columns >= _NARROW:
        listed = table(rows, columns, spare=(3, 2, 4, 0, 1))
    else:
        listed = []
        below = [
            f"{job}: " + "; ".join(filter(None, (f"stage {stage}", image, needs and f"needs {needs}", when)))
            for stage, job, image, needs, when in rows[1:]
        ] + below
    if columns is None:
        return [*listed, *below]
    wrapper = TextWrapper(columns, subsequent_indent="  ", break_on_hyphens=False)
    return [*listed, *chain.from_iterable(map(wrapper.wrap, below))]
