"""tests/workflows/github: files in the way of public ones, and beside each what loom makes of it for several events.

`LOOM_TEST_ACCEPT=1 pytest tests/unit/workflow/github/test_corpus.py` writes the present state; read it before you commit it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from loom.config import Config
from loom.config.values import GitHubSettings
from loom.errors import LoomError
from loom.plan.model import JobSelection, Plan, ResolveContext
from loom.plan.resolve import problems_of, resolve
from loom.workflow.dialects import examine

CORPUS = Path(__file__).parents[3] / "workflows/github"
KNOWN = {"CI_COMMIT_SHA": "a" * 40, "CI_DEFAULT_BRANCH": "main", "CI_PROJECT_PATH": "me/project"}
EVENTS = {
    "push": {"CI_COMMIT_BRANCH": "main"},
    "tag": {"CI_COMMIT_TAG": "v1.2.3"},
    "pull_request": {"CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "topic"},
    "workflow_dispatch": {"CI_COMMIT_BRANCH": "main"},
}
CONFIG = Config(github=GitHubSettings(secrets={"KEY": "env://KEY", "MYSQL": "env://MYSQL"}))


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.yml")), ids=lambda path: path.stem)
def test_what_loom_makes_of_a_file(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / ".github/workflows"
    folder.mkdir(parents=True)
    for name in {path.name, "called.yml"}:
        shutil.copy(CORPUS / name, folder / name)
    said = "\n".join(made_of(folder / path.name, tmp_path)) + "\n"
    beside = path.with_suffix(".expected")
    if os.environ.get("LOOM_TEST_ACCEPT"):
        beside.write_text(said)
    assert said == beside.read_text()


def made_of(path: Path, root: Path) -> Iterator[str]:
    found = examine(path, root, ResolveContext)
    yield from map(str, found.problems)
    if found.workflow is None or found.problems:
        return
    yield from (str(one) for one in found.in_order([*found.workflow.notices, *problems_of(found.workflow, CONFIG)]))
    for event, values in EVENTS.items():
        context = ResolveContext(config=CONFIG, predefined={**KNOWN, "LOOM_EVENT": event, **values})
        yield f"-- {event}"
        try:
            yield from described(resolve(found.workflow, JobSelection(container=True), context))
        except LoomError as error:
            yield str(error)


def described(plan: Plan) -> Iterator[str]:
    for job in plan.jobs:
        assert job.late is not None
        needs = ", ".join(need.job for need in job.needs or ())
        kinds = " ".join(step.late.kind for step in job.steps if step.late)
        image = job.image.name if job.image is not None else ""
        yield f"{job.id}: {kinds} in {image}" + (f" after {needs}" if needs else "")
        for name in ("condition", "strategy", "runs_on", "secrets"):
            if value := getattr(job.late, name):
                yield f"  {name}: {value}"
        for name in ("resource_group", "timeout_s", "refused", "matrix"):
            if (value := getattr(job, name)) and value != 3600.0:
                yield f"  {name}: {value}"
        for service in job.services:
            yield f"  {service.name}: {service.image.name} {dict(service.variables)} {service.ports} {service.ready.command or ''}"
    yield from (f"without {left.id}: {left.reason}" for left in plan.left_out)
