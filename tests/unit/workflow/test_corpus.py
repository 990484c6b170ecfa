"""tests/workflows: one small file per situation. Beside each broken or doubtful one, exactly what loom says about it.

`LOOM_TEST_ACCEPT=1 pytest tests/unit/workflow/test_corpus.py` writes the present messages; read them before you commit them.
"""

import shutil
from pathlib import Path

import pytest

from loom import __version__
from loom.plan.model import JobSelection, ResolveContext
from loom.plan.resolve import rehearse, resolve
from loom.render.plan import plan_yaml
from loom.workflow.native.lint import run_warnings, warnings
from loom.workflow.predefined import KNOWN_TO_PLANS
from tests.support import native as workflow
from tests.support.plans import as_declared, expect, lines, problem_line

CORPUS = Path(__file__).parents[2] / "workflows"


def situations(kind: str) -> list[Path]:
    return sorted(path for path in (CORPUS / kind).iterdir() if path.suffix == ".yml" or path.is_dir())


def named(path: Path) -> str:
    return path.stem


def laid_out(path: Path, project: Path) -> Path:
    """The situation as a project's own files."""
    if path.is_dir():
        shutil.copytree(path, project, dirs_exist_ok=True)
    else:
        (project / ".loom").mkdir()
        shutil.copy(path, project / ".loom/workflow.yml")
    return project / ".loom/workflow.yml"


@pytest.mark.parametrize("path", situations("broken"), ids=named)
def test_broken(path: Path, tmp_path: Path) -> None:
    file = laid_out(path, tmp_path)
    examined = workflow.examine(file, tmp_path)
    problems = examined.sort(
        [*examined.problems, *(rehearse(examined.workflow)[0] if examined.workflow is not None else ())]
    )
    assert problems
    assert all(problem.severity == "error" for problem in problems)
    expect(path.with_suffix(".expected"), "".join(f"{problem_line(one)}\n" for one in problems))


def test_no_message_about_a_secret_shows_its_line(tmp_path: Path) -> None:
    problems = workflow.examine(laid_out(CORPUS / "broken/secrets.yml", tmp_path), tmp_path).problems
    lines = [one.source_line for one in problems if "a secret's value is never written here" in one.message]
    assert lines == [None] * 4


@pytest.mark.parametrize("path", situations("broken"), ids=named)
def test_a_broken_workflow_has_warnings_too(path: Path, tmp_path: Path) -> None:
    found = workflow.examine(laid_out(path, tmp_path), tmp_path).workflow
    assert found is None or all(one.severity == "warning" for one in warnings(found, predefined=()))


@pytest.mark.parametrize("path", situations("doubtful"), ids=named)
def test_doubtful(path: Path, tmp_path: Path) -> None:
    loaded = workflow.load(laid_out(path, tmp_path), tmp_path)
    assert rehearse(loaded)[0] == []
    expect(
        path.with_suffix(".expected"),
        "".join(f"{problem_line(one)}\n" for one in warnings(loaded, predefined=KNOWN_TO_PLANS)),
    )


@pytest.mark.parametrize("path", situations("good"), ids=named)
def test_good(path: Path, tmp_path: Path) -> None:
    loaded = workflow.load(laid_out(path, tmp_path), tmp_path)
    assert rehearse(loaded)[0] == []
    context = ResolveContext(predefined={"CI_COMMIT_BRANCH": "main"}, files=lambda: ["pyproject.toml"])
    plan = as_declared(resolve(loaded, JobSelection(), context))
    expect(path.with_suffix(".expected"), "".join(f"{line}\n" for line in lines(plan)))


def test_a_plan_as_a_page() -> None:
    plan = resolve(workflow.load(CORPUS / "plan.yml", CORPUS), JobSelection(), ResolveContext())
    expect(CORPUS / "plan.expected", plan_yaml(plan).replace(f"loom_version: {__version__}\n", ""))


def test_warnings_of_a_run_are_those_of_its_jobs(tmp_path: Path) -> None:
    (tmp_path / ".loom").mkdir()
    file = tmp_path / ".loom/workflow.yml"
    job = "  stage: a\n  rules: [{if: $NONE}]\n  script: ['cd $OTHER || true']\n  variables: {V: $MISSING}\n"
    file.write_text(f"version: v1\nstages: [a]\none:\n{job}two:\n{job}")
    loaded = workflow.load(file, tmp_path)
    every = [(one.line, one.code) for one in warnings(loaded, predefined=KNOWN_TO_PLANS)]
    of_two = [(one.line, one.code) for one in run_warnings(loaded, ["two"], defined=KNOWN_TO_PLANS)]
    assert {line for line, _ in every} == {5, 6, 7, 10, 11, 12}
    assert of_two == [one for one in every if one[0] >= 8]
