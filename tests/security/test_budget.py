"""A clone's workflow can't keep a command that only looks at it: what it expands to ends in an error with a line."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import loom
from loom.errors import WorkflowError
from loom.plan.resolve import rehearse
from loom.util.budget import COMPLETION_S, limited
from loom.workflow import dialects
from loom.workflow.facts import Facts
from tests.support.loom_process import run_loom

pytestmark = pytest.mark.slow

ROOT = str(Path(loom.__file__).parents[1])
GITHUB, GITLAB, OWN = ".github/workflows/a.yml", ".gitlab-ci.yml", ".loom/workflow.yml"
STEPS = "    runs-on: ubuntu-latest\n    steps:\n"
MATRIX = f"    strategy: {{matrix: {{a: [{','.join(map(str, range(16)))}], b: [{','.join(map(str, range(16)))}]}}}}\n"
UNKNOWN = "".join(f"    key{number}: x\n" for number in range(100_000))
USES_ITSELF = "runs:\n  using: composite\n  steps:\n" + "    - uses: ./act0\n" * 10
CYCLE = {GITHUB: f"on: push\njobs:\n  a:\n{STEPS}      - uses: ./act0\n", "act0/action.yml": USES_ITSELF}


def tree_of_actions() -> dict[str, str]:
    return CYCLE | {f"act{level}/action.yml": USES_ITSELF.replace("act0", f"act{level + 1}") for level in range(9)}


def tree_of_calls() -> dict[str, str]:
    calls = "".join(f"  j{number}:\n    uses: ./.github/workflows/w0.yml\n" for number in range(10))
    files = {GITHUB: f"on: push\njobs:\n{calls}"}
    for level in range(9):
        files[f".github/workflows/w{level}.yml"] = f"on: workflow_call\njobs:\n{calls.replace('w0', f'w{level + 1}')}"
    return files


HOSTILE: Mapping[str, Mapping[str, str]] = {
    "composite actions that use themselves": CYCLE,
    "a tree of composite actions": tree_of_actions(),
    "a tree of called workflows": tree_of_calls(),
    "matrices of GitHub": {
        GITHUB: "on: push\njobs:\n" + "".join(f"  j{n}:\n{MATRIX}{STEPS}      - run: x\n" for n in range(500))
    },
    "unknown keys of GitHub": {GITHUB: f"on: push\njobs:\n  a:\n{UNKNOWN}{STEPS}      - run: x\n"},
    "unknown keys of GitLab": {GITLAB: f"a:\n    script: x\n{UNKNOWN}"},
    "unknown keys of loom": {OWN: f"version: v1\nstages: [t]\na:\n    stage: t\n    script: [x]\n{UNKNOWN}"},
    "instances of GitLab": {GITLAB: "".join(f"j{number}: {{script: x, parallel: 200}}\n" for number in range(2000))},
    "what jobs of GitLab inherit": {
        GITLAB: ".b:\n  variables:\n"
        + "".join(f"    V{number}: x\n" for number in range(2000))
        + "".join(f"j{number}: {{extends: .b, script: x}}\n" for number in range(2000))
    },
    "rules of GitLab": {
        GITLAB: "j:\n  script: x\n  rules:\n" + "".join(f"    - if: $A =~ /x{n}/ || $B == 'y'\n" for n in range(20_000))
    },
    "jobs of loom": {
        OWN: "version: v1\nstages: [t]\n" + "".join(f"j{n}: {{stage: t, script: [x]}}\n" for n in range(40_000))
    },
}


def lay_out(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def look_at(path: Path, root: Path) -> None:
    found = dialects.examine(path, root, Facts)
    assert found.workflow is not None
    rehearse(found.workflow)


@pytest.mark.parametrize("what", HOSTILE)
def test_what_a_hostile_workflow_expands_to_ends_in_an_error_with_a_line(what: str, tmp_path: Path) -> None:
    lay_out(tmp_path, HOSTILE[what])
    path = tmp_path / next(iter(HOSTILE[what]))
    with limited(COMPLETION_S), pytest.raises(WorkflowError) as caught:
        look_at(path.parent if GITHUB in HOSTILE[what] else path, tmp_path)
    last = caught.value.problems[-1]
    assert any(one.code == "WF_TOO_LARGE" for one in caught.value.problems) or len(caught.value.problems) == 200
    assert (tmp_path / last.file).exists()
    assert last.line > 0


def test_each_command_that_looks_ends(tmp_path: Path) -> None:
    lay_out(tmp_path, {GITHUB: f"on: push\njobs:\n  a:\n{STEPS}      - run: x\n"})
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path / "home"), "LANG": "C.UTF-8", "PYTHONPATH": ROOT}
    little = "from loom.util import budget; budget.LOOKING_S = 1e-9; from loom.cli import main; main()"
    for command in (("check",), ("trust", "--yes"), ("compile",), ("jobs",)):
        ran = subprocess.run(
            [sys.executable, "-c", little, *command],
            cwd=tmp_path,
            env=environ,
            check=False,
            capture_output=True,
            text=True,
        )
        assert "takes more than 1e-09 s of the processor" in ran.stdout + ran.stderr, command
        assert ran.returncode == 2
    lay_out(tmp_path, tree_of_calls())
    completing = {"_LOOM_COMPLETE": "complete_bash", "COMP_WORDS": "loom run ", "COMP_CWORD": "2"}
    ran = run_loom((), cwd=tmp_path, environ=environ | completing)
    assert "Traceback" not in ran.stderr
