"""`loom init`: what it drafts for a project, and what it says of one that has a workflow."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from loom.cli.boundary import run_app
from loom.commands.plan.init import drafts_for, image_for

Loom = Callable[..., tuple[int, str, str]]

EXTRA = '[project]\nname = "x"\n[project.optional-dependencies]\nsocks = [\n"a[b]",\n]\ntest = ["pytest"]\n'
PROJECTS: dict[str, tuple[dict[str, str], dict[str, list[str]]]] = {
    "python with an extra": (
        {"pyproject.toml": EXTRA},
        {"python": ["pip install -e '.[test]'", "pip install pytest", "python -m pytest"]},
    ),
    "python of another section's test": (
        {"pyproject.toml": '[project]\nname = "x"\n[project.optional-dependencies]\na = []\n[tool.x]\ntest = 1\n'},
        {"python": ["pip install -e ."]},
    ),
    "python with files alone": (
        {"a.py": "", "tests/test_a.py": "import unittest", "Makefile": "dist:\n\ttrue"},
        {"python": ["python -m unittest discover -s tests"]},
    ),
    "python and a makefile with tests": (
        {"setup.py": "", "test/test_a.py": "import unittest", "Makefile": "test: unit\n"},
        {"python": ["pip install -e .", "make test"]},
    ),
    "requirements of tests": (
        {"requirements.txt": "", "requirements-dev.txt": "pytest"},
        {
            "python": [
                "pip install -r requirements.txt",
                "pip install -r requirements-dev.txt",
                "pip install pytest",
                "python -m pytest",
            ]
        },
    ),
    "node and its lock file": (
        {"package.json": json.dumps({"scripts": {"test": "jest", "build": "tsc"}}), "package-lock.json": "{}"},
        {"node": ["npm ci", "npm run build", "npm test"]},
    ),
    "node without tests": (
        {"package.json": json.dumps({"scripts": {"test": 'echo "Error: no test specified" && exit 1'}})},
        {"node": ["node --test"]},
    ),
    "go and a script": ({"go.mod": "module x", "build.sh": ""}, {"go": ["go vet ./...", "go test ./..."]}),
    "rust in a folder, beside python": (
        {"setup.py": "", "core lib/Cargo.toml": "", "examples/go.mod": ""},
        {"python": ["pip install -e .", "python -m compileall -q ."], "rust": ["cd 'core lib' && cargo test"]},
    ),
    "maven": ({"pom.xml": "", "mvnw": ""}, {"maven": ["sh ./mvnw --batch-mode verify"]}),
    "gradle": ({"build.gradle.kts": ""}, {"gradle": ["gradle build"]}),
    "ruby": (
        {"Gemfile": "", "spec/a_spec.rb": "", "Rakefile": ""},
        {"ruby": ["bundle install", "bundle exec rspec"]},
    ),
    "php": (
        {"composer.json": "{}", "phpunit.xml.dist": ""},
        {"php": ["composer install --no-interaction", "vendor/bin/phpunit"]},
    ),
    "c and its makefile": (
        {"src/a.c": "", "Makefile": "TEST := 1\ntest-all: a\ncheck := x\n\ncheck: all\n"},
        {"c": ["make", "make test"]},
    ),
    "c and what its build names": (
        {
            "configure.ac": "AM_GNU_GETTEXT([external])\nAC_CHECK_LIB(z, gzopen)\n",
            "Makefile.am": "bin_PROGRAMS = a\nLDADD = -lncurses\n",
            "Makefile": "a:\n\tcc a.c -lncurses\n",
        },
        {
            "c": [
                "apt-get update",
                "apt-get install -y autoconf automake libtool gettext libncurses-dev",
                "autoreconf -i",
                "./configure",
                "make",
            ]
        },
    ),
    "go without a module": (
        {"a.go": "package a", "Makefile": "test:\n\tgo test\n"},
        {"go": ["go mod init example.com/project", "go mod tidy", "go test ./..."]},
    ),
    "a makefile": ({"Makefile": "check := no\ntest: a\n"}, {"make": ["make test"]}),
    "shell": ({"run.sh": "", "tests/run's.sh": "", "tests/test.sh": ""}, {"shell": ["sh run.sh"]}),
    "nothing that is known": ({"README": ""}, {"test": ["echo 'Write the commands of your tests here.'"]}),
}


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.fixture
def loom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Loom:
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = run_app(list(arguments))
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("project", PROJECTS)
def test_a_project_has_the_commands_of_its_files(project: str, loom: Loom) -> None:
    files, expected = PROJECTS[project]
    write(Path.cwd(), files)
    code, out, _ = loom("init", "--print")
    assert code == 0
    jobs = {name: job["script"] for name, job in yaml.safe_load(out).items() if isinstance(job, dict)}
    assert jobs == expected
    assert loom("init")[0] == 0
    assert Path(".loom/workflow.yml").read_text() == out
    assert loom("check", "--strict")[0] == 0


def test_a_workflow_is_named_and_never_replaced(loom: Loom) -> None:
    github, gitlab = ".github/workflows/ci.yml", ".gitlab-ci.yml"
    job = "on: push\njobs: {a: {runs-on: ubuntu-latest, steps: [{run: ls}]}}\n"
    write(Path.cwd(), {github: job, gitlab: "a: {script: ls}\nb: {script: ls}\n", "go.mod": ""})
    code, out, _ = loom("init")
    first, second, third = out.splitlines()
    assert (code, first) == (0, "loom reads .gitlab-ci.yml as it is, 2 jobs: loom run")
    assert second == "loom reads .github/workflows as it is, 1 job: loom run -f .github/workflows"
    assert third == "before the first run: git init && git add -A && git commit -m 'First commit'"
    assert not Path(".loom").exists()
    Path(gitlab).write_text("a: {script: {}}\n")
    assert loom("init")[1].startswith(".gitlab-ci.yml has 2 errors: loom check\n")


def test_a_bare_repository_gets_no_draft(loom: Loom) -> None:
    subprocess.run(["git", "init", "-q", "--bare"], check=True)
    code, _, error = loom("init")
    assert code == 2
    assert "git worktree add" in error
    assert not Path(".loom").exists()


def test_names_of_files_reach_the_commands_as_words(tmp_path: Path) -> None:
    write(tmp_path, {"requirements-dev.txt": "", "$(reboot)/go.mod": "", "a\nb/pom.xml": ""})
    files = ["requirements-dev.txt", "$(reboot)/go.mod", "a\nb/pom.xml"]
    assert [draft.commands[0] for draft in drafts_for(tmp_path, files)][1:] == ["cd '$(reboot)' && go vet ./..."]


def test_an_image_that_is_here_comes_first() -> None:
    known = ("python:3", "loom/python:3.13")
    assert image_for(known, ["debian:12"]) == "python:3"
    assert image_for(known, ["loom/python:3.13", "debian:12"]) == "loom/python:3.13"
    assert image_for(known, ["loom/python:3.13", "python:3.11", "python:3.12"]) == "python:3.12"
    assert image_for(known, ["python:3", "python:3.12"]) == "python:3"
