"""Which shell runs the steps of a job on this machine."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import Make

pytestmark = pytest.mark.slow

WORKFLOW = """\
version: v1
stages: [test]
a:
  stage: test
  script:
    - 'echo "shell ${BASH_VERSION:+bash} $-"'
    - 'false | true'
"""


def test_bash_with_pipefail(make: Make) -> None:
    project = make(WORKFLOW)
    project.loom("run", "--local", code=1)
    assert "shell bash ehB" in project.loom("logs")
    assert "step script/02, exit code 1" in project.loom("show")
    assert "shell=bash -e -o pipefail" in project.loom("show", "-v")


def test_sh_where_there_is_no_bash(make: Make, tmp_path: Path) -> None:
    project = make(WORKFLOW)
    path = tmp_path / "bin"
    path.mkdir()
    for name in ("sh", "git", "true", "false"):
        found = shutil.which(name)
        assert found
        (path / name).symlink_to(os.path.realpath(found))
    knows_pipefail = subprocess.run(["sh", "-c", "set -o pipefail"], capture_output=True, check=False).returncode == 0
    project.loom("run", "--local", code=int(knows_pipefail), PATH=str(path))
    assert "shell  e" in project.loom("logs")
    assert "shell=sh -e" in project.loom("show", "-v")


def test_a_named_shell_and_the_configured_one(make: Make) -> None:
    project = make(WORKFLOW.replace("  script:", "  shell: sh\n  script:"))
    project.loom("run", "--local")
    assert "shell  e" in project.loom("logs")
    (project.root / ".loom/workflow.yml").write_text(WORKFLOW)
    project.loom("run", "--local", LOOM_DEFAULT_SHELL="sh")
    assert "shell  e" in project.loom("logs")
    (project.root / ".loom/workflow.yml").write_text(WORKFLOW.replace("  script:", "  shell: bash\n  script:"))
    project.loom("run", "--local", code=1, LOOM_DEFAULT_SHELL="sh")
