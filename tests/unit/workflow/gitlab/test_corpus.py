"""tests/workflows/gitlab: files of GitLab's language with many keywords, and beside each exactly what loom makes of it.

`LOOM_TEST_ACCEPT=1 pytest tests/unit/workflow/gitlab/test_corpus.py` writes the present state; read it before you commit it.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from loom.config import Config
from loom.errors import Problem
from loom.plan import permissions
from loom.plan.model import Job, JobSelection, ResolveContext
from loom.plan.provenance import sources
from loom.plan.resolve import rehearse, resolve
from loom.workflow.dialects import examine
from loom.workflow.gitlab.pipeline import Pipeline
from loom.workflow.native.lint import warnings
from loom.workflow.predefined import KNOWN_TO_PLANS
from tests.support.gitlab import PUSH
from tests.support.plans import as_declared, expect, lines, problem_line

CORPUS = Path(__file__).parents[3] / "workflows/gitlab"
FOLDERS = sorted(path for path in CORPUS.iterdir() if path.is_dir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_what_loom_makes_of_a_file(folder: Path) -> None:
    expect(folder.with_suffix(".expected"), made_of(folder))


def listed(problems: Iterable[Problem]) -> str:
    return "".join(f"{problem_line(one)}\n" for one in problems)


def origins_of(loaded: Pipeline, jobs: Iterable[Job], selection: JobSelection) -> Iterator[str]:
    """Yield where the values of jobs come from, each place once: the keys of all values on its line."""
    told: dict[str, list[str]] = {}
    for job in jobs:
        found: dict[str, list[str]] = {}
        for one in sources(loaded, job, selection):
            line, _, column = one.position.rpartition(":")
            found.setdefault(f"{one.by} {line}".rstrip(), []).append(f"{one.key} {column}".rstrip())
        for place, keys in found.items():
            told.setdefault(f"{place}: {', '.join(keys)}", []).append(job.id)
    yield from (f"{', '.join(ids)} {text}\n" for text, ids in told.items())


def made_of(folder: Path) -> str:
    files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    config = Config()
    context = ResolveContext(config=config, predefined=PUSH, files=lambda: files, changed=lambda _: ["src/a.py"])
    found = examine(folder / ".gitlab-ci.yml", folder, lambda: context)
    loaded = found.workflow
    problems = found.sort([*found.problems, *(rehearse(loaded)[0] if loaded is not None else ())])
    if found.problems or loaded is None:
        return listed(problems)
    assert isinstance(loaded, Pipeline)
    selection = JobSelection(container=True)
    plan = as_declared(resolve(loaded, selection, context))
    wanted = [job for job in plan.jobs if job.id in ("build", "test.one-1")]
    origins = "".join(origins_of(loaded, wanted, selection))
    around = permissions.TrustContext(root=folder, home="/home/u")
    return "\n---\n".join(
        (
            listed(problems),
            listed(warnings(loaded, predefined=KNOWN_TO_PLANS)),
            "".join(f"{request}\n" for request in permissions.requests_of(plan.jobs, around)),
            origins,
            "".join(f"{line}\n" for line in lines(plan)),
        )
    )
