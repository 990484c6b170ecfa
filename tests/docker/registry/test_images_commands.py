"""`loom images` as users run it, against a real registry and a real engine."""

import json
import os
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.support.loom_process import run_loom

pytestmark = pytest.mark.docker


class Project:
    """A repository with a workflow, and the `loom images` command in it."""

    def __init__(self, folder: Path, workflow: str, files: dict[str, str] | None = None) -> None:
        self.root = folder / "project"
        self.home = folder / "home"
        self.home.mkdir()
        for name, content in {".loom/workflow.yml": workflow, **(files or {})}.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        git = ["git", "-C", str(self.root), "-c", "user.name=t", "-c", "user.email=t@t"]
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
            subprocess.run([*git, *command], check=True, env=self.environ)

    @property
    def environ(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "DOCKER_HOST") if name in os.environ}
        return {**kept, "HOME": str(self.home), "GIT_CONFIG_GLOBAL": "/dev/null"}

    def images(self, *arguments: str, code: int = 0) -> str:
        done = self.run("images", *arguments)
        assert done.returncode == code, done.stderr
        return done.stdout

    def images_json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self.images(*arguments, "--json", code=code))

    def run(self, *arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
        return run_loom(arguments, cwd=self.root, environ={**self.environ, **environ})

    @property
    def lock(self) -> Any:
        return json.loads((self.root / ".loom/images.lock").read_text())["images"]


def workflow(image: str, extra: str = "") -> str:
    return f"version: v1\nstages: [test]\na:\n  stage: test\n  image: {image}\n  script: ['true']\n{extra}"


@pytest.fixture
def named(registry: Any, publish: Callable[..., str]) -> tuple[str, str]:
    """A name of this test's own in the registry, and the digest that it has at first."""
    tag = f"test-{uuid.uuid4().hex[:12]}:1"
    digest = publish(registry, tag)
    return f"{registry.host}/{tag}", digest


def test_from_nothing_here_to_locked(
    tmp_path: Path, registry: Any, named: tuple[str, str], publish: Callable[..., str]
) -> None:
    name, digest = named
    project = Project(tmp_path, workflow(name))
    assert project.images("pull") == f"{name} {digest}\n"
    (here,) = project.images_json("pull")["images"]
    assert (here["name"], here["digest"], here["built"]) == (name, digest, False)
    project.images("lock")
    assert project.lock == {name: {"linux/amd64": {"digest": digest, "image_id": here["image_id"]}}}
    assert project.images("lock").endswith("1 image, as before\n")

    # The tag moves on the server: a run keeps to the lock.
    moved = publish(registry, name.removeprefix(f"{registry.host}/"), content="moved")
    assert project.images("pull", "--frozen") == f"{name} {digest}\n"
    changes = project.images_json("lock")["changes"]
    assert [(change["before"], change["after"]) for change in changes] == [(digest, moved)]


def test_lock_names_what_it_could_not_lock_and_keeps_the_rest(
    tmp_path: Path, registry: Any, named: tuple[str, str]
) -> None:
    name, digest = named
    missing = f"{registry.host}/not/there:1"
    project = Project(tmp_path, workflow(name, f"b:\n  stage: test\n  image: {missing}\n  script: ['true']\n"))
    done = project.run("images", "lock")
    assert done.returncode == 3
    assert f"{missing} (linux/amd64) is not locked" in done.stderr
    assert project.lock == {name: {"linux/amd64": {"digest": digest}}}
    assert "is not made for linux/s390x" in project.run("images", "lock", "a", "--platform", "linux/s390x").stderr


def test_lock_without_a_registry_names_the_way_that_needs_none(tmp_path: Path, free_port: int) -> None:
    name = f"localhost:{free_port}/test-{uuid.uuid4().hex[:12]}:1"
    project = Project(tmp_path, workflow(name))
    assert "--local" not in project.run("images", "lock").stderr, "it is not on this engine either"
    client = docker.from_env()
    client.images.get("debian:trixie-slim").tag(name)
    try:
        done = project.run("images", "lock")
        assert (done.returncode, "loom images lock --local" in done.stderr) == (3, True), done.stderr
        project.images("lock", "--local")
        assert list(project.lock) == [name]
    finally:
        client.images.remove(name)
        client.close()


def test_frozen_runs_only_what_is_locked(tmp_path: Path, named: tuple[str, str]) -> None:
    name, _ = named
    project = Project(tmp_path, workflow(name))
    done = project.run("images", "pull", "--frozen")
    assert done.returncode == 3
    assert "loom images lock" in done.stderr
    project.images("lock")
    project.images("pull", "--frozen")


def test_a_damaged_lock_is_the_users_to_repair(tmp_path: Path, named: tuple[str, str]) -> None:
    project = Project(tmp_path, workflow(named[0]))
    (project.root / ".loom/images.lock").write_text("<<<<<<< ours\n")
    done = project.run("images", "pull")
    assert done.returncode == 2
    assert "images.lock: JSON is malformed" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_job_without_an_image_is_locked_to_the_default_one(tmp_path: Path) -> None:
    # An image that is from no registry, as the engine here has it.
    project = Project(
        tmp_path,
        "version: v1\nstages: [test]\na:\n  stage: test\n  script: ['true']\n",
        {".loom/config.yml": "default_image: debian:trixie-slim\n"},
    )
    project.images("lock", "--local")
    assert "debian:trixie-slim" in project.lock
    done = project.run("run", "--local", "--container", "--frozen")
    assert done.returncode == 0, done.stdout + done.stderr


def test_unknown_images_are_named_with_the_known_ones(tmp_path: Path, named: tuple[str, str]) -> None:
    project = Project(tmp_path, workflow(named[0]))
    done = project.run("images", "pull", "nothing*")
    assert done.returncode == 2
    assert named[0] in done.stderr


def test_a_run_uses_the_locked_image_and_its_receipt_says_so(
    tmp_path: Path, registry: Any, publish: Callable[..., str], client: docker.DockerClient
) -> None:
    # An image that has a shell, published under a name of ours.
    name = f"{registry.host}/shell:1"
    client.images.get("debian:trixie-slim").tag(name)
    digest = ""
    for line in client.api.push(f"{registry.host}/shell", tag="1", stream=True, decode=True):
        digest = line.get("aux", {}).get("Digest", digest)
    project = Project(tmp_path, workflow(name))
    project.images("lock")
    publish(registry, "shell:1")
    done = project.run("run", "--local")
    assert done.returncode == 0, done.stderr + done.stdout
    receipt = Path(next(line for line in done.stdout.splitlines() if line.startswith("receipt: ")).split(": ", 1)[1])
    assert digest in receipt.read_text()
