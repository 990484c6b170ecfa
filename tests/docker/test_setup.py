"""What the set-up makes with the engine: the CI images of images/, and loom itself as an image."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.effort import LONG

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.docker, pytest.mark.slow]


IN_TOOL_CACHE = "set -- /opt/hostedtoolcache/*/*/*.complete; ${1%.complete}"
"""The directory of the version that GitHub's actions find."""


def sh(*argv: str, cwd: Path = ROOT, status: int = 0) -> str:
    """Standard output and standard error of a command that has to end with `status`."""
    done = subprocess.run(argv, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == status, f"{argv} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def library(commands: str) -> str:
    return sh("bash", "-c", f". scripts/lib.sh; {commands}")


def in_image(image: str, script: str) -> str:
    return sh("docker", "run", "--rm", "--network=none", image, "sh", "-ec", script)


@pytest.fixture(scope="module")
def images() -> None:
    library("build_images")


@pytest.mark.usefixtures("images")
def test_base_has_what_most_jobs_need() -> None:
    out = in_image(
        "loom/base",
        "git --version; curl --version; make --version; jq --version; ssh -V; zip -v; zstd --version; test -s /etc/ssl/certs/ca-certificates.crt;"
        "echo 'int main(void) { return 3; }' > /tmp/a.c; cc -o /tmp/a /tmp/a.c; /tmp/a || echo it says $?",
    )
    assert "git version 2" in out
    assert out.endswith("it says 3\n")


@pytest.mark.usefixtures("images")
def test_python_has_an_environment_that_pip_writes_to() -> None:
    out = in_image(
        "loom/python",
        "python --version; python -c 'import sys; print(sys.prefix)'; pip --version; git --version;"
        "mkdir -p /tmp/p; echo 'x = 1' > /tmp/p/one.py; python -m venv /tmp/v; PYTHONPATH=/tmp/p python -c 'import one';"
        f"{IN_TOOL_CACHE}/bin/python -c 'import pip, sys; print(sys.prefix)'",
    )
    assert "Python 3.13" in out
    assert re.search(r"^/opt/hostedtoolcache/Python/3\.13\.[0-9]+/\w+$", out, re.MULTILINE)
    assert "/opt/venv" in out


@pytest.mark.usefixtures("images")
def test_node_has_npm() -> None:
    out = in_image(
        "loom/node",
        f"node --eval 'console.log(\"sum\", 1 + 1)'; npm --version; git --version; {IN_TOOL_CACHE}/bin/npm -v",
    )
    assert "sum 2" in out


@pytest.mark.usefixtures("images")
def test_the_set_up_may_run_again_and_changes_nothing() -> None:
    before = sh("docker", "image", "inspect", "--format={{.Id}}", "loom/base", "loom/python", "loom/node")
    library("engine; build_images")
    assert sh("docker", "image", "inspect", "--format={{.Id}}", "loom/base", "loom/python", "loom/node") == before


@pytest.fixture(scope="module")
def loom_image(images: None) -> Iterator[str]:
    tag = f"loom-test:setup-{os.getpid()}"
    library(f'build_image {tag} "$ROOT"')
    yield tag
    sh("docker", "image", "rm", "--no-prune", tag)


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """The shipped sample as a repository, as scripts/demo makes it."""
    repo = tmp_path / "sample"
    shutil.copytree(ROOT / "docs" / "sample", repo)
    sh("git", "init", "-q", "-b", "main", cwd=repo)
    sh("git", "add", "-A", cwd=repo)
    sh("git", "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-q", "-m", "sample", cwd=repo)
    return repo


def loom_in_a_container(image: str, repo: Path, *arguments: str, status: int) -> str:
    """As docs/guides/loom-in-a-container.md says."""
    mounts = [f"--volume={path}:{path}" for path in ("/var/run/docker.sock", "/tmp", str(repo))]
    return sh("docker", "run", "--rm", "--pid=host", *mounts, f"--workdir={repo}", image, *arguments, status=status)


def the_line(output: str, label: str) -> Path:
    (found,) = [line for line in output.splitlines() if line.startswith(label + ": ")]
    return Path(found.removeprefix(label + ": "))


def test_loom_as_an_image_says_its_version(loom_image: str) -> None:
    assert sh("docker", "run", "--rm", loom_image, "version").startswith("loom ")


def test_the_package_brings_the_manual_page_and_completion(loom_image: str) -> None:
    script = (
        "ls /opt/loom/share/man/man1/loom.1 /opt/loom/share/zsh/site-functions/_loom /opt/loom/share/fish/vendor_completions.d/loom.fish;"
        ". /opt/loom/share/bash-completion/completions/loom;"
        'COMP_WORDS=(loom ru); COMP_CWORD=1; _loom_completion loom; echo "${COMPREPLY[@]}"'
    )
    output = sh("docker", "run", "--rm", "--entrypoint=bash", loom_image, "-ec", script)
    assert output.splitlines()[-1] == "run runs"


def test_loom_as_an_image_runs_the_sample(loom_image: str, sample: Path) -> None:
    output = loom_in_a_container(loom_image, sample, "run", "--local", "--container", status=0)
    receipt, workspace = the_line(output, "receipt"), the_line(output, "isolated workspace")
    try:
        assert json.loads(receipt.read_text())["status"] == "success"
        assert "dist/wordstat-" in loom_in_a_container(loom_image, sample, "artifacts", "last", "package", status=0)
        assert sh("git", "status", "--porcelain", cwd=sample) == ""
    finally:
        shutil.rmtree(workspace)
        shutil.rmtree(f"{workspace}.jobs")


def test_loom_as_an_image_shows_the_way_to_a_failure(loom_image: str, sample: Path) -> None:
    source = sample / "wordstat" / "__init__.py"
    source.write_text(source.read_text().replace(r"[\w']+", r"\w+"))
    output = loom_in_a_container(loom_image, sample, "run", "--local", "--container", "unit", status=1)
    receipt, workspace = the_line(output, "receipt"), the_line(output, "isolated workspace")
    try:
        found = json.loads(receipt.read_text())
        logs = Path(found["logs_dir"])
        pipeline = json.loads(Path(found["pipeline_manifest_path"]).read_text())
        assert pipeline["failing_job_id"] == "unit"
        job = json.loads((logs / pipeline["failing_job_manifest_path"]).read_text())
        events = (logs / job["failing_step_events_path"]).read_text()
        assert "FAIL: test_keep_their_apostrophe" in events
        assert job["failing_step_events_path"] in output
    finally:
        shutil.rmtree(workspace)


@pytest.mark.skipif(not LONG, reason="scripts/lint for minutes: in the long form (LOOM_TEST_LONG)")
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this copy of the project is no repository")
@pytest.mark.usefixtures("images")
def test_loom_lints_itself_in_its_own_image() -> None:
    """The quicker job of the project's own workflow; the other one runs the unit tests once more."""
    output = sh(sys.executable, "-m", "loom", "run", "--local", "--container", "lint")
    shutil.rmtree(the_line(output, "isolated workspace"))
