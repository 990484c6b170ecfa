"""The language of a workflow file, by its path or its keys."""

import re
from pathlib import Path

import pytest

from loom.plan.model import ResolveContext
from loom.workflow.dialects import examine, language_of, load
from loom.workflow.languages import GITHUB, LANGUAGES

GITLAB = "job:\n  script: x\n"


@pytest.mark.parametrize(
    ("path", "text", "language"),
    [
        (".loom/workflow.yml", GITLAB, "native"),
        (".gitlab-ci.yml", "version: v1\n", "gitlab"),
        ("ci/child.gitlab-ci.yaml", "", "gitlab"),
        (".gitlab-ci/notes.yml", "version: v1\n", "native"),
        ("ci.yml", GITLAB, "gitlab"),
        ("ci.yml", "'job':\n\t'trigger' : x\n", "gitlab"),
        ("ci.yml", "include: other.yml\n", "gitlab"),
        ("ci.yml", f"version: v1\n{GITLAB}", "native"),
        ("ci.yml", f"on: push\njobs: {{}}\n{GITLAB}", "github"),
        ("ci.yml", f'"jobs":\n{GITLAB}', "github"),
        ("ci.yml", "version: v1\nstages: [a]\njobs: {}\n", "native"),
        (".github/workflows/ci.yml", "version: v1\n", "github"),
        ("ci.yml", "hello: x\n", "native"),
    ],
)
def test_a_file_has_the_language_of_its_path_else_of_its_keys(
    path: str, text: str, language: str, tmp_path: Path
) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    assert language_of(Path(path), tmp_path).name == language
    assert language_of(file, tmp_path).name == language


@pytest.mark.parametrize(
    ("path", "language"), [("a.gitlab-ci.yml", "gitlab"), (".github/workflows/ci.yml", "github"), ("ci.yml", "gitlab")]
)
def test_a_file_outside_the_repository_has_a_language(path: str, language: str, tmp_path: Path) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(GITLAB)
    assert language_of(file, tmp_path / "repository").name == language


def test_a_file_that_is_not_there_is_for_looms_own_reader_to_report(tmp_path: Path) -> None:
    assert {language_of(Path(name), tmp_path).name for name in (".gitlab-ci.yml", "ci.yml")} == {"native"}


def test_a_file_may_have_the_language_of_another_one(tmp_path: Path) -> None:
    (tmp_path / "part").write_text("spec: {}\n---\njob: {script: x}\n")
    (tmp_path / ".gitlab-ci.yml").touch()
    assert examine(tmp_path / "part", tmp_path, ResolveContext).problems
    other = load(tmp_path / "part", tmp_path, ResolveContext, like=tmp_path / ".gitlab-ci.yml")
    assert (other.language, list(other.jobs)) == ("gitlab", ["job"])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("version: '3'\nservices:\n  web: {image: nginx}\nvolumes: {x: {}}\n", "this is a file of Docker Compose"),
        ("language: python\nscript: tox\n", "this is no workflow that loom reads"),
        ("version: v1\nservices: {web: {image: nginx}}\n", "the key stages is missing"),
        ("stages: [a]\njob: {stage: a}\n", "the key version is missing"),
    ],
)
def test_a_file_of_another_program_is_named_as_that(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "some.yml").write_text(text)
    first, *others = (one.message for one in examine(tmp_path / "some.yml", tmp_path, ResolveContext).problems)
    assert first.startswith(what)
    assert not (what.startswith("this") and others)


def test_each_language_has_a_name_and_a_path_of_its_own() -> None:
    assert len({one.name for one in LANGUAGES}) == len({one.default for one in LANGUAGES}) == len(LANGUAGES)


def test_a_plan_of_githubs_depends_on_the_variables_that_its_contexts_are_made_of() -> None:
    root = Path(__file__).parents[3] / "loom"
    texts = [(root / name).read_text() for name in ("plan/github/events.py", "workflow/changes.py")]
    assert set(re.findall(r'get\("([A-Z]+_[A-Z_]+)"', "".join(texts))) <= GITHUB.reads
