"""Some cases of tests/github in containers; the others run without an engine."""

import os
from pathlib import Path

import pytest

from tests.github import outcomes

pytestmark = pytest.mark.docker

NAMES = (
    *(
        "composite-action",
        "default-shell-ends-at-failure",
        "env-of-an-earlier-step",
        "hash-of-files",
        "matrix-of-an-output",
    ),
    *("path-of-an-earlier-step", "default-variables", "defaults-of-run"),
)


def test_workflows_end_as_documented_in_containers(tmp_path: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "LC_ALL": "C.UTF-8"}
    found = outcomes.run(outcomes.cases(NAMES), tmp_path, environ=environ)
    assert {name: differences for name, differences in found.items() if differences} == {}
