"""tests/workflows/github: files in the way of public ones, and beside each what loom makes of it for several events.

`LOOM_TEST_ACCEPT=1 pytest tests/unit/workflow/github/test_corpus.py` writes the present state; read it before you commit it.
"""

import shutil
from collections.abc import Iterator
from difflib import ndiff
from pathlib import Path

import pytest

from loom.config import Config
from loom.config.values import GitHubSettings
from loom.errors import LoomError
from loom.plan.model import JobSelection, ResolveContext
from loom.plan.resolve import rehearse, resolve
from loom.workflow.dialects import examine
from tests.support.plans import as_declared, expect, lines, problem_line
from tests.unit.plan.github.test_actions import Server

CORPUS = Path(__file__).parents[3] / "workflows/github"
KNOWN = {"CI_COMMIT_SHA": "a" * 40, "CI_DEFAULT_BRANCH": "main", "CI_PROJECT_PATH": "me/project"}
EVENTS = {
    "push": {"CI_COMMIT_BRANCH": "main"},
    "tag": {"CI_COMMIT_TAG": "v1.2.3"},
    "pull_request": {"CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "topic"},
    "workflow_dispatch": {"CI_COMMIT_BRANCH": "main"},
}
CONFIG = Config(github=GitHubSettings(secrets={"KEY": "env://KEY", "MYSQL": "env://MYSQL"}))
HIDDEN = ("github.", "sources")
"""Parts of a plan that `other_forms` alone shows."""
FOLDERS = sorted(path for path in CORPUS.iterdir() if path.is_dir())


@pytest.mark.parametrize("path", [*sorted(CORPUS.glob("*.yml")), *FOLDERS], ids=lambda path: path.stem)
def test_what_loom_makes_of_a_file(path: Path, tmp_path: Path) -> None:
    """A folder is a project, and `server` in it another machine's repositories."""
    folder = tmp_path / ".github/workflows"
    if path.is_dir():
        shutil.copytree(path, tmp_path, dirs_exist_ok=True)
    else:
        folder.mkdir(parents=True)
        for name in {path.name, "called.yml"}:
            shutil.copy(CORPUS / name, folder / name)
    said = "\n".join(made_of(folder if path.is_dir() else folder / path.name, tmp_path)) + "\n"
    expect(path.with_suffix(".expected"), said.replace(str(tmp_path), "ROOT"))


def made_of(path: Path, root: Path) -> Iterator[str]:
    found = examine(path, root, ResolveContext)
    yield from map(problem_line, found.problems)
    if found.workflow is None or found.problems:
        return
    yield from (
        problem_line(one) for one in found.sort([*found.workflow.notices, *rehearse(found.workflow, CONFIG)[0]])
    )
    first: list[str] = []
    told: set[str] = set()
    for event, values in EVENTS.items():
        context = ResolveContext(
            config=CONFIG,
            predefined={**KNOWN, "LOOM_EVENT": event, **values},
            repositories=lambda: Server(root / "server"),
        )
        yield f"-- {event}"
        try:
            plan = as_declared(resolve(found.workflow, JobSelection(container=True), context))
        except LoomError as error:
            yield from {str(error)} - told
            told.add(str(error))
            continue
        said = list(lines(plan, () if path.stem == "other_forms" else HIDDEN))
        differing = [line for line in ndiff(first, said) if line[0] in "+-"]
        now = {line[2:].partition(": ")[0] for line in differing if line[0] == "+"}
        differing = [line for line in differing if line[0] == "+" or line[2:].partition(": ")[0] not in now]
        yield from min(differing, said, key=len) if first else said
        first = said
