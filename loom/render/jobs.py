"""Render the list of a workflow's jobs."""

from __future__ import annotations

from itertools import groupby
from typing import Literal

from loom.record.documents import Document
from loom.render.output import table


class LeftOutJob(Document, frozen=True, kw_only=True):
    id: str
    reason: str


class ListedJob(Document, frozen=True, kw_only=True):
    id: str
    name: str
    stage: str
    runs: str
    """When it runs; empty: after the jobs before it have succeeded."""
    image: str | None
    """None: it runs on this machine."""
    image_here: bool | None
    """Whether the engine has the image; None: unknown, or built by loom."""
    needs: list[str] | None
    """None: it waits for all earlier stages."""


class JobsDocument(Document, frozen=True, kw_only=True):
    """The document of `loom jobs --json`."""

    schema_version: Literal["loom.jobs.v1"] = "loom.jobs.v1"
    kind: Literal["jobs"] = "jobs"
    workflow_path: str
    jobs: list[ListedJob]
    left_out: list[LeftOutJob]


_STATE = {True: " (here)", False: " (to pull)", None: ""}


def job_lines(document: JobsDocument) -> list[str]:
    """Return one line for each job, and those that a run leaves out by the reason."""
    rows = [("stage", "job", "image", "needs", "when")]
    for job in document.jobs:
        image = (job.image or "none: on this machine") + _STATE[job.image_here]
        needs = "" if job.needs is None else ", ".join(job.needs) or "nothing"
        rows.append((job.stage, job.id, image, needs, job.runs))
    listed = table(rows) if document.jobs else [f"no job of {document.workflow_path} would run"]
    left_out = groupby(document.left_out, lambda item: item.reason)
    return [*listed, *(f"left out: {', '.join(item.id for item in items)}: {why}" for why, items in left_out)]
