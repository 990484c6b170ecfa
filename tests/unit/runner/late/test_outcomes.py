"""Small workflows end as GitHub's documentation says, on this machine: the cases of tests/github."""

import os
from pathlib import Path

import pytest

from tests.github import outcomes


@pytest.mark.slow
def test_workflows_end_as_documented(tmp_path: Path) -> None:
    environ = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "LC_ALL": "C.UTF-8", "LOOM_CONTAINER": "0"}
    found = outcomes.run(outcomes.cases(), tmp_path, environ=environ)
    assert {name: differences for name, differences in found.items() if differences} == {}
