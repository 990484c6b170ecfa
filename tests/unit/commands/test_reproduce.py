"""What `loom reproduce` decides before anything runs: real git, a server that answers as GitLab does, no engine."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.ci_server import Reply, Stub, gitlab_job, gitlab_project
from tests.support.loom_process import run_loom
from tests.support.repository import commit_all, git
from tests.unit.analysis.test_server_log import gitlab

pytestmark = pytest.mark.slow

AT = "/api/v4/projects/group%2Fproject"


def reproduced(stub: Stub, root: Path, workflow: str, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Reproduce the red job 12 of a repository with this workflow."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(root), "GIT_CONFIG_GLOBAL": os.devnull, "LC_ALL": "C.UTF-8"}
    environ |= {"GITLAB_HOST": stub.url, "GITLAB_TOKEN": "t"}
    (root / ".gitlab-ci.yml").write_text(workflow)

    commit_all(root)
    gitlab_project(stub, [gitlab_job(12, name, commit={"id": git(root, "rev-parse", "HEAD")})])
    stub.routes[f"{AT}/jobs/12/trace"] = Reply(gitlab("$ false", "exit code 1").encode())
    command = ("reproduce", f"{stub.url}/group/project/-/jobs/12", *words)
    return run_loom(command, cwd=root, environ={**environ, "DOCKER_HOST": "unix:///nonexistent.sock"})


@pytest.mark.parametrize(
    "keys",
    ["environment: production", "environment: {name: eu, action: start}", "release: {tag_name: v1, description: x}"],
)
def test_a_job_that_deploys_is_refused_before_the_variables_are_read(stub: Stub, tmp_path: Path, keys: str) -> None:
    workflow = f"ship: {{image: debian:trixie-slim, script: [./ship], parallel: 2, {keys}}}\n"
    done = reproduced(stub, tmp_path, workflow, "ship 2/2")
    assert (done.returncode, "loom reproduce --deploy" in done.stderr) == (2, True), done.stderr
    assert not any(path.endswith("/variables") for path, _ in stub.asked if "pipelines" not in path)


def test_a_job_that_deploys_runs_on_request_and_one_that_looks_at_an_environment_runs(
    stub: Stub, tmp_path: Path
) -> None:
    workflow = "ship: {{image: debian:trixie-slim, script: [./ship], environment: {{name: eu, action: {}}}}}\n"
    for action, words in (("start", ["--deploy"]), ("access", [])):
        folder = tmp_path / action
        folder.mkdir()
        done = reproduced(stub, folder, workflow.format(action), "ship", *words)
        assert done.returncode == 3, done.stderr  # there is no engine
        assert f"{AT}/variables" in {path for path, _ in stub.asked}
