"""Real runs of real repositories, on the host, each in directories of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from loom.record.store import RunEntry, Store
from tests.support.loom_process import run_loom
from tests.support.repository import commit_all

# The line that ends the step prints what is looked for: bash marks commands only if those before them were slow.
WORKFLOW = """\
version: v1
stages: [build, test]
build:
  stage: build
  script: [echo building]
test:
  stage: test
  script:
    - for i in $(seq 30); do echo "line $i"; done
    - |
      for i in $(seq 30); do echo "before $i"; done >&2
      echo "tests/test_x.py:12: AssertionError: 1 != 2" >&2; cat config.local.json
      frobnicate
lint:
  stage: build
  allow_failure: true
  retry: 1
  script: [echo linting, exit 3]
after:
  stage: test
  needs: [test]
  script: [echo never]
"""


@dataclass(frozen=True)
class Project:
    """A repository, and a home directory beside it, with all that loom keeps."""

    root: Path
    home: Path

    @property
    def environ(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "PYTHONPATH": str(Path(__file__).parents[3]),
            "LOOM_STATE_DIR": str(self.home / "state"),
            "LOOM_TMP_DIR": str(self.home / "workspaces"),
            "LOOM_CACHE_DIR": str(self.home / "cache"),
            "LOOM_CONTAINER": "0",
            "LOOM_AUTO_CLEAN": "no",
            "LANG": "C.UTF-8",
            "COLUMNS": "200",
        }

    @property
    def store(self) -> Store:
        return Store(self.home / "state")

    def loom(self, *arguments: str, code: int | None = 0, **environ: str) -> str:
        """Standard output of a command that must end with `code` (None: whatever)."""
        ran = run_loom(arguments, cwd=self.root, environ={**self.environ, **environ})
        assert code is None or ran.returncode == code, f"{ran.returncode}\n{ran.stdout}\n{ran.stderr}"
        assert "Traceback" not in ran.stderr
        return ran.stdout

    def start(self, *arguments: str, **environ: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "loom", *arguments],
            cwd=self.root,
            env={**self.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def last(self) -> RunEntry:
        return self.store.find("last", repo_root=self.root)


Make = Callable[..., Project]


def new_project(base: Path, workflow: str, **files: str) -> Project:
    root = base / "project"
    (root / ".loom").mkdir(parents=True)
    (base / "home").mkdir()
    (root / ".loom" / "workflow.yml").write_text(workflow)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    commit_all(root)
    return Project(root=root.resolve(), home=(base / "home").resolve())


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda workflow, **files: new_project(tmp_path, workflow, **files)


@dataclass(frozen=True)
class Ran:
    project: Project
    output: str


@pytest.fixture(scope="session")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One run that failed; tests only read it."""
    base = tmp_path_factory.mktemp("failed")
    project = new_project(base, WORKFLOW, **{".gitignore": "config.local.json\n", "tests/test_x.py": "x\n" * 12})
    (project.root / "config.local.json").write_text("{}")
    return Ran(project=project, output=project.loom("run", "--local", code=1))
