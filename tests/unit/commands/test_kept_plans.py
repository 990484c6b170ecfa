"""A plan of an earlier run is used only while everything that went into it is the same."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import loom
from loom import config
from loom.commands.plan import contexts
from loom.commands.plan.kept_plans import Planner
from loom.commands.project import Project as LoomProject
from loom.errors import WorkflowError
from loom.plan.model import JobSelection, Plan
from tests.support.repository import git

WORKFLOW = """\
version: v1
stages: [test]
include: [{local: .loom/templates/*.yml}]
default: {image: debian}
asks:
  stage: test
  script: [echo $WORD $CI_COMMIT_SHORT_SHA]
  variables: {WORD: one, SHA: $CI_COMMIT_SHORT_SHA}
  rules: [{changes: [src/**]}, {exists: [there]}]
plain: {stage: test, script: [echo hi]}
"""
TEMPLATE = "from_template: {stage: test, script: [echo template]}\n"


class Project:
    def __init__(self, root: Path) -> None:
        self.root = root / "checkout"
        self.variables: dict[str, str] = {}
        self.environ = {"HOME": str(root), "PATH": "/usr/bin:/bin", "GIT_CONFIG_GLOBAL": "/dev/null"}
        self.write(".loom/workflow.yml", WORKFLOW)
        self.write(".loom/templates/one.yml", TEMPLATE)
        self.write("src/a", "1")
        self.git("init", "-q")
        self.commit()

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def git(self, *words: str) -> str:
        return git(self.root, *words, env=self.environ)

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-qm", "a", "--allow-empty")

    def planner(self, selection: JobSelection | None = None, **flags: object) -> Planner:
        settings = config.load(root=self.root, environ=self.environ, flags=flags)
        here = LoomProject(environ=self.environ, start=self.root, root=self.root, config=settings)
        variables = {"LOOM_RUN_ID": str(time.time_ns()), **self.variables}
        variables["CI_COMMIT_SHORT_SHA"] = self.git("rev-parse", "--short=8", "HEAD")
        context = contexts.resolve_context(here, here.workflow(), predefined=variables)
        return Planner(here.workflow(), here, selection or JobSelection(), context, keeping=True)

    def planned(self, selection: JobSelection | None = None, **flags: object) -> tuple[Plan, bool]:
        """The plan, and whether an earlier run had kept it."""
        planner = self.planner(selection, **flags)
        plan, _ = planner.made()
        return plan, "workflow" not in vars(planner)

    @property
    def kept(self) -> list[Path]:
        return list((self.root.parent / ".local/state/loom/plans").iterdir())


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.mark.slow
def test_the_second_run_has_the_plan_of_the_first_without_reading_the_workflow(project: Project) -> None:
    first, was_kept = project.planned()
    assert not was_kept
    assert [job.id for job in first.jobs] == ["from_template", "plain"]
    assert project.planned() == (first, True)
    [file] = project.kept
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_plan_that_no_file_holds_is_made_again(project: Project) -> None:
    shutil.rmtree(project.root / ".loom")
    job = "{runs-on: ubuntu-latest, strategy: {matrix: {a: [%s]}}, steps: [run: a]}"
    for number, kept in ((".inf", False), ("1.5", True)):
        project.write(".github/workflows/a.yml", f"on: push\njobs: {{a: {job % number}}}")
        plan, _ = project.planned()
        assert project.planned() == (plan, kept)


CHANGES: dict[str, Callable[[Project], object]] = {
    "the workflow": lambda project: project.write(
        ".loom/workflow.yml", WORKFLOW + "more: {stage: test, script: [a]}\n"
    ),
    "an included file": lambda project: project.write(".loom/templates/one.yml", TEMPLATE.replace("echo", "printf")),
    "one more file to include": lambda project: project.write(
        ".loom/templates/two.yml", TEMPLATE.replace("from_template", "two")
    ),
    "a file that a rule names": lambda project: project.write("src/a", "2"),
    "a file that a rule looks for": lambda project: project.write("there", ""),
    "the commit": lambda project: project.commit(),
    "the configuration": lambda project: project.write(".loom/config.yml", "job_timeout: 5m\n"),
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_after_a_change_the_plan_is_made_again(project: Project, change: Callable[[Project], object]) -> None:
    if change is CHANGES["the commit"]:
        project.write(
            ".loom/templates/one.yml", "t: {stage: test, script: [a], variables: {SHA: $CI_COMMIT_SHORT_SHA}}\n"
        )
        project.commit()
    before, _ = project.planned()
    change(project)
    after, was_kept = project.planned()
    assert not was_kept
    assert after != before
    assert project.planned() == (after, True)


@pytest.mark.slow
def test_another_selection_another_setting_or_another_loom_has_a_plan_of_its_own(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.planned()
    assert not project.planned(JobSelection(jobs=("plain",)))[1]
    assert not project.planned(job_timeout="7m")[1]
    assert project.planned(JobSelection(jobs=("plain",)))[1]
    monkeypatch.setattr(loom, "__version__", "0")
    assert not project.planned()[1]


def test_a_kept_plan_that_others_could_have_written_or_that_is_damaged_does_not_count(project: Project) -> None:
    elsewhere = project.write("elsewhere.json", "{}")
    plan, _ = project.planned()
    [file] = project.kept
    file.parent.chmod(0o777)
    assert project.planned() == (plan, False)
    file.parent.chmod(0o700)
    assert project.planned() == (plan, True)
    file.write_bytes(file.read_bytes().replace(b"echo hi", b"echo no")[:-1])
    assert project.planned() == (plan, False)
    file.unlink()
    file.symlink_to(elsewhere)
    assert project.planned() == (plan, False)
    assert (project.root / "elsewhere.json").read_text() == "{}"


def test_a_workflow_that_names_the_run_is_read_in_each_run(project: Project) -> None:
    project.write(".loom/workflow.yml", WORKFLOW.replace("WORD: one", r'WORD: "$LOOM\x5fRUN_ID"'))
    project.planned()
    assert not project.planned()[1]


def test_a_commit_that_the_workflow_does_not_mention_changes_nothing(project: Project) -> None:
    project.write(".loom/workflow.yml", WORKFLOW.replace("$CI_COMMIT_SHORT_SHA", "x"))
    project.commit()
    plan, _ = project.planned()
    project.commit()
    assert project.planned() == (plan, True)


def test_mistakes_are_not_kept(project: Project) -> None:
    project.write(".loom/workflow.yml", WORKFLOW + "bad: {}\n")
    for _ in range(2):
        with pytest.raises(WorkflowError):
            project.planned()


def test_a_file_that_changes_while_it_is_read_leaves_no_plan(project: Project) -> None:
    planner = project.planner()
    assert planner.workflow.files
    project.write(".loom/templates/one.yml", TEMPLATE.replace("echo", "printf"))
    planner.made()
    plan, was_kept = project.planned()
    assert not was_kept
    assert "printf template" in plan.jobs[0].steps[0].script


def test_without_keeping_nothing_is_kept_or_used(project: Project) -> None:
    planner = project.planner()
    planner._keeping = False
    planner.made()
    assert not (project.root.parent / ".local/state/loom/plans").exists()


@pytest.mark.slow
def test_a_run_with_a_kept_plan_imports_no_language_and_no_engine() -> None:
    """Before its record: each of these takes 50 to 100 ms."""
    program = """
import sys
import loom.commands.run.run, loom.runner.pipeline, loom.providers.docker.provider
print({"yaml", "pydantic", "docker", "kubernetes", "pygit2"} & sys.modules.keys() or "none")
"""
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "none\n"


GITLAB = """\
include: [{local: 'ci/*.yml'}, {local: more.yml, rules: [{exists: [there]}]}]
asks:
  script: [echo $CI_COMMIT_SHORT_SHA $OWN]
  rules: [{changes: [src/**]}, {exists: [there]}]
plain: {script: [echo hi], only: [main]}
"""


@pytest.fixture
def gitlab(project: Project) -> Project:
    """The project with a file of GitLab's language alone."""
    (project.root / ".loom/workflow.yml").unlink()
    project.write(".gitlab-ci.yml", GITLAB)
    project.write("ci/one.yml", "from_include: {script: [echo include]}\n")
    project.write("more.yml", "more: {script: [echo more]}\n")
    project.commit()
    return project


def test_a_plan_of_gitlabs_file_is_kept_too(gitlab: Project) -> None:
    first, kept = gitlab.planned()
    assert not kept
    again, kept = gitlab.planned()
    assert kept
    assert again == first


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda project: project.write("ci/one.yml", "other: {script: [echo x]}\n"), id="an included file"),
        pytest.param(lambda project: project.write("ci/two.yml", "two: {script: [echo x]}\n"), id="a file that fits"),
        pytest.param(lambda project: project.write("there", ""), id="a file that a rule looks for"),
        pytest.param(lambda project: project.write("src/b", ""), id="a changed file"),
        pytest.param(lambda project: project.write("vars.yml", "OWN: b\n"), id="the user's variables"),
        pytest.param(lambda project: project.variables.update(CI_COMMIT_TAG="v1"), id="a variable that `only` reads"),
        pytest.param(lambda project: project.variables.update(CI_COMMIT_BEFORE_SHA="HEAD"), id="the commit before"),
    ],
)
def test_a_plan_of_gitlabs_file_is_made_again(gitlab: Project, change: Callable[[Project], object]) -> None:
    variables = gitlab.write("vars.yml", "OWN: a\n")
    gitlab.write("../.config/loom/config.yml", f"gitlab: {{variables: {variables}}}\n")
    gitlab.planned()
    assert gitlab.planned()[1]
    change(gitlab)
    assert not gitlab.planned()[1]


def test_a_plan_of_files_from_elsewhere_is_not_kept(gitlab: Project) -> None:
    folder = gitlab.root.parent / "templates"
    gitlab.write("../templates/a.yml", "a: {script: [echo a]}\n")
    gitlab.write("../.config/loom/config.yml", f"gitlab: {{templates: {folder}}}\n")
    gitlab.write(".gitlab-ci.yml", "include: [{template: a.yml}]\n")
    gitlab.planned()
    assert not gitlab.planned()[1]
