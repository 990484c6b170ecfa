"""The modes of a job's directory and files are those that CI's runner lays out, restores and downloads."""

import pytest

from .conftest import Project

pytestmark = pytest.mark.docker

STAT = "stat -c '%a %n' . dir dir/plain tool sub sub/inner"
GITLAB = f"""\
image: debian:trixie-slim
stages: [make, use]
variables: {{GIT_SUBMODULE_STRATEGY: recursive}}
make:
  stage: make
  cache: {{key: k, paths: [cached/deep]}}
  script:
    - {STAT}; stat -c '%a %n' cached cached/deep || true
    - setpriv --reuid 4321 --regid 4321 --clear-groups touch dir/by-another
    - mkdir -p out/deep cached/deep; echo x >out/deep/report; chmod 640 out/deep/report; echo x >cached/deep/file
  artifacts: {{paths: [out/deep/report]}}
use:
  stage: use
  script: ["{STAT} out out/deep out/deep/report"]
closed:
  stage: use
  variables: {{FF_DISABLE_UMASK_FOR_DOCKER_EXECUTOR: "true"}}
  script: ["{STAT}"]
"""
GITHUB = f"""\
on: push
jobs:
  one:
    runs-on: ubuntu-latest
    container: debian:trixie-slim
    steps:
      - uses: actions/checkout@v4
        with: {{submodules: true}}
      - run: |
          {STAT}
          setpriv --reuid 4321 --regid 4321 --clear-groups cat dir/plain
"""
OPEN = ["777 .", "777 dir", "666 dir/plain", "777 tool", "777 sub", "666 sub/inner"]
AS_GIT = ["755 .", "755 dir", "644 dir/plain", "755 tool", "755 sub", "644 sub/inner"]


@pytest.fixture
def files(project: Project) -> Project:
    for path in ("../inner/inner", "dir/plain", "tool"):
        project.write(path, "text\n")
    (project.root / "tool").chmod(0o700)
    (project.root / "dir/plain").chmod(0o600)
    inner = str(project.root.parent / "inner")
    project.git("-C", inner, "init", "-q", "-b", "main")
    project.git("-C", inner, "add", "-A")
    project.git("-C", inner, "commit", "-q", "-m", "inner")
    project.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", inner, "sub")
    project.write(".gitlab-ci.yml", GITLAB)
    project.write(".github/workflows/ci.yml", GITHUB)
    project.commit()
    return project


@pytest.mark.parametrize("mode", ["auto", "ephemeral_volume"])
def test_modes_of_gitlabs_jobs(files: Project, mode: str) -> None:
    ran = files.run("--mount-mode", mode)
    assert ran.code == 0, ran.out + ran.err
    assert [line for line in ran.output("make") if not line.startswith("stat:")] == OPEN, "nothing is cached yet"
    made = "755" if mode == "ephemeral_volume" else "777"  # an engine's own, of a directory that no archive has
    assert ran.output("use") == [*OPEN, f"{made} out", f"{made} out/deep", "640 out/deep/report"]
    assert ran.output("closed") == AS_GIT
    assert files.loom("verify").code == 0, "modes are no change"
    alone = files.run("make", "--mount-mode", mode)
    assert alone.code == 0, alone.out + alone.err
    assert alone.output("make") == [*OPEN, f"{made} cached", "755 cached/deep"]
    assert alone.workspace.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("mode", ["auto", "ephemeral_volume"])
def test_modes_of_githubs_jobs(files: Project, mode: str) -> None:
    ran = files.run("-f", ".github/workflows/ci.yml", "--mount-mode", mode)
    assert ran.code == 0, ran.out + ran.err
    assert ran.output("one", "script/02") == [*AS_GIT, "text"]
