"""How the jobs of a `.gitlab-ci.yml` end in containers, as GitLab documents it: the cases of tests/gitlab/containers."""

import os
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
import yaml

from tests.gitlab.compare import Tools, laid_out, ran_by_loom
from tests.support.own_engine import load_busybox

pytestmark = pytest.mark.docker

CASES = Path(__file__).parents[2] / "gitlab/containers"


@pytest.fixture(scope="module", autouse=True)
def _image(busybox: bytes) -> Iterator[None]:
    client = docker.from_env()
    load_busybox(client, busybox)
    yield
    client.close()


@pytest.mark.parametrize("name", sorted(path.name for path in CASES.iterdir()))
def test_jobs_end_as_in_gitlab(name: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environ = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "LC_ALL": "C.UTF-8", "LOOM_DEPLOY": "false"}
    laid_out(CASES / name, tmp_path / "project", environ)
    tools = Tools(other=[], environ=environ, answers=tmp_path, containers=True)
    seen = ran_by_loom(tools, tmp_path / "project", ".gitlab-ci.yml", at_once=8)
    expected = yaml.load((CASES / name / "outcome.yml").read_text(), yaml.CSafeLoader)
    found = {job: [one["result"], one["stdout"]] for job, one in seen.jobs.items()}
    assert (seen.refused, seen.left_out, seen.succeeds, found) == ("", "", expected["succeeds"], expected["jobs"])
