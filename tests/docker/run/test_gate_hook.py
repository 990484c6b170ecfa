"""`loom gate install`: real pushes to a bare repository, past hooks that are there already."""

import subprocess

import pytest

from tests.docker.run.conftest import Project
from tests.docker.run.conftest import project as project

pytestmark = pytest.mark.docker

WORKFLOW = """\
default: {{image: debian:trixie-slim}}
unit: {{script: [{command}]}}
release: {{script: [exit 3], rules: [{{if: $CI_COMMIT_TAG == "v1"}}]}}
"""


def push(project: Project, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    accept = {"LOOM_GATE_ACCEPT": "other-commit,image-by-tag"}
    return subprocess.run(
        ("git", "push", "origin", *words),
        cwd=project.root,
        env={**project.environ, **accept, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def refs(project: Project) -> dict[str, str]:
    """The refs of the bare repository."""
    listed = (line.split("\t") for line in project.git("ls-remote", "origin").splitlines())
    return {name: sha for sha, name in listed if name != "HEAD"}


@pytest.fixture
def gated(project: Project) -> Project:
    bare = project.root.with_name("bare.git")
    project.git("init", "-q", "--bare", str(bare))
    project.git("remote", "add", "origin", f"file://{bare}")
    project.write(".gitlab-ci.yml", WORKFLOW.format(command="echo fine"))
    project.commit()
    assert project.loom("gate", "install").code == 0
    return project


def test_only_green_goes(gated: Project) -> None:
    first = push(gated, "main")
    assert first.returncode == 0, first.stderr
    green = refs(gated)
    gated.git("tag", "v1")
    gated.git("checkout", "-q", "-b", "red")
    gated.write(".gitlab-ci.yml", WORKFLOW.format(command="echo wrong; exit 3"))
    gated.commit()
    for words in (["red"], ["red:main"], ["main:other", "red"], ["v1"], ["--force", "red:main"]):
        done = push(gated, *words)
        assert (done.returncode, refs(gated)) == (1, green), words
        assert "loom diagnose" in done.stdout + done.stderr
        assert "--no-verify" in done.stderr
    gated.git("tag", "blob", "HEAD:.gitlab-ci.yml")
    assert push(gated, "blob").returncode == 0, "no server has a pipeline of it"
    green = refs(gated)
    away = subprocess.run(
        ("git", f"--git-dir={gated.root}/.git", "push", "origin", "main:away"),
        cwd=gated.home,
        env={**gated.environ, "LOOM_GATE_ACCEPT": "other-commit,image-by-tag"},
        check=False,
        capture_output=True,
        text=True,
    )
    green["refs/heads/away"] = green["refs/heads/main"]
    assert (away.returncode, refs(gated)) == (0, green), away.stderr
    gone = push(gated, "main:main", DOCKER_HOST="unix:///nowhere")
    assert gone.returncode == 0, "nothing is pushed, so nothing is asked"
    assert push(gated, "main:third", DOCKER_HOST="unix:///nowhere").returncode == 1
    assert refs(gated) == green
    assert push(gated, "red", LOOM_GATE="off").returncode == 0
    assert push(gated, "--delete", "red").returncode == 0


@pytest.mark.parametrize("hooks", [".git/hooks", "team/hooks", "included/hooks", ".husky/_"])
def test_a_hook_that_is_there_goes_on(gated: Project, hooks: str) -> None:
    assert gated.loom("gate", "uninstall").code == 0
    assert not (gated.root / ".git/hooks/pre-push").exists()
    if "included" in hooks:
        gated.write(".git/more", f"[core]\nhooksPath = {hooks}\n")
        gated.git("config", "include.path", "more")
    elif hooks != ".git/hooks":
        gated.git("config", "core.hooksPath", hooks)
    script = gated.root / (".husky/pre-push" if "husky" in hooks else f"{hooks}/pre-push")
    text = "#!/bin/sh -e\ncat > hook-got\nexit 0\n"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(text)
    script.chmod(0o755)
    if "husky" in hooks:  # as husky 9 writes it
        (gated.root / hooks).mkdir()
        (gated.root / hooks / "pre-push").write_text('#!/usr/bin/env sh\nsh -e .husky/pre-push "$@"\n')
        (gated.root / hooks / "pre-push").chmod(0o755)
    assert gated.loom("gate", "install").code == 0
    done = push(gated, "main")
    assert done.returncode == 0, done
    assert "unit" in done.stdout + done.stderr
    sha = gated.git("rev-parse", "main").strip()
    assert (gated.root / "hook-got").read_text().split()[:3] == ["refs/heads/main", sha, "refs/heads/main"]
    assert gated.loom("gate", "uninstall").code == 0
    assert script.read_text() == text
