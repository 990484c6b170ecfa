"""Completion: of every flag with fixed values, and of what the workflow and the record name; never files for these."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from loom.cli.app import app_for
from tests.support.loom_process import run_loom

pytestmark = pytest.mark.slow

WORKFLOW = """\
version: v1
stages: [build, test]
unit: {stage: test, script: x, parallel: {matrix: [{PYTHON: ["3.11", "3.12"]}]}}
lint: {stage: build, script: x}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / ".loom").mkdir()
    (tmp_path / ".loom/workflow.yml").write_text(WORKFLOW)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["run", "--keep", ""], {"never", "on-failure", "always", "auto"}),
        (["run", "--mount-mode", "o"], {"overlay"}),
        (["run", "--pull", ""], {"always", "missing", "never"}),
        (["run", "--color", "n"], {"never"}),
        (["run", "--event", "m"], {"merge_request", "merge_group"}),
        (["run", "--format", "git"], {"github", "gitlab"}),
        (["run", "--stage", ""], {"build", "test"}),
        (["run", "--from", "unit"], {"unit.3.11", "unit.3.12"}),
        (["run", "--matrix", "PY"], {"PYTHON=3.11", "PYTHON=3.12"}),
        (["run", "l"], {"lint"}),
        (["attach", "last"], {"last", "last-failed"}),
        (["rerun", "last"], {"last", "last-failed"}),
        (["resume", "last-"], {"last-failed"}),
        (["config", "show", "default_"], {"default_image", "default_shell"}),
        (["schema", "--record", "job-"], {"job-manifest"}),
    ],
)
def test_values_are_completed(project: Path, words: list[str], found: set[str]) -> None:
    environ = {
        **os.environ,
        "HOME": str(project),
        "_LOOM_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["loom", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = run_loom((), cwd=project, environ=environ)
    assert set(done.stdout.split()) == found, done.stderr


FREE = {
    "--target",
    "--var",
    "--input",
    "--changes-base",
    "--base",
    "--try",
    "--grep",
    "--older-than",
    "--timeout",
    "--platform",
    "--max-size",
    "--unused-for",
}
"""Flags that take any text."""
PATHS = {"PATH", "FILE", "DIR"}


def test_no_flag_with_known_values_offers_files() -> None:
    """A flag completes its values, is one of these free texts, or takes a file."""
    wrong = [
        f"{command} {parameter.opts[0]}"
        for command, parameter in parameters(typer.main.get_command(app_for([])))
        if parameter.metavar not in PATHS | {"N"}
        and not FREE & set(parameter.opts)
        and parameter._custom_shell_complete is None
        and not getattr(getattr(parameter, "type_descriptor", None) or parameter.type, "choices", None)
    ]
    assert wrong == []


def parameters(command: Any, path: str = "loom") -> Iterator[tuple[str, Any]]:
    for name, sub in getattr(command, "commands", {}).items():
        yield from parameters(sub, f"{path} {name}")
    for parameter in command.params:
        if parameter.opts[0].startswith("-") and not parameter.is_flag:
            yield path, parameter
