"""Runs of tests/gitlab/cases on this machine end as they do with gitlab-ci-local: `outcome.yml` beside the case.

`tests/gitlab/compare.py --run` compares them with that tool.
"""

import os
from pathlib import Path

import pytest
import yaml

from tests.gitlab.compare import Tools, laid_out, ran_by_loom

pytestmark = pytest.mark.slow

CASES = Path(__file__).parents[2] / "gitlab/cases"


@pytest.mark.parametrize("name", sorted(path.parent.name for path in CASES.glob("*/outcome.yml")))
def test_a_run_ends_as_with_gitlab_ci_local(name: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), "GIT_CONFIG_GLOBAL": os.devnull, "LC_ALL": "C.UTF-8"}
    environ["LOOM_REPORTED"] = "VERSION"  # its jobs are on this machine
    laid_out(CASES / name, tmp_path / "project", environ)
    seen = ran_by_loom(Tools(other=[], environ=environ, answers=tmp_path), tmp_path / "project", ".gitlab-ci.yml")
    expected = yaml.load((CASES / name / "outcome.yml").read_text(), yaml.CSafeLoader)
    assert (seen.refused, seen.succeeds) == ("", expected["succeeds"])
    assert {job: [one["result"], one["stdout"]] for job, one in seen.jobs.items()} == expected["jobs"]
