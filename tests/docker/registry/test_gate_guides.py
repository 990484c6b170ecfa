"""The guides on `gate` and `attest`, followed word for word, with an image that has a digest as CI's have."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.docker.run.conftest import Project
from tests.docker.run.conftest import project as project
from tests.support.guide import GUIDES, follow

pytestmark = [pytest.mark.docker, pytest.mark.slow]

WORKFLOW = """\
version: v1
stages: [test]
default: {{image: '{image}'}}
lint: {{stage: test, script: ls src, inputs: [src]}}
"""
SUITE = "#!/bin/sh\ncat src/code tests/test pyproject.toml\n"
"""In place of pytest."""


@pytest.fixture
def image(registry: Any, tmp_path: Path) -> Iterator[str]:
    (tmp_path / "pytest").write_text(SUITE)
    (tmp_path / "pytest").chmod(0o755)
    (tmp_path / "Dockerfile").write_text("FROM debian:trixie-slim\nCOPY pytest /usr/local/bin/\n")
    client = docker.from_env()
    try:
        name = f"{registry.host}/guide"
        client.images.build(path=str(tmp_path), tag=name)
        client.images.push(name)
        yield name
    finally:
        client.close()


def test_the_guides_are_true(project: Project, image: str) -> None:
    bare, key = project.root.with_name("bare.git"), project.home / ".ssh/id_ed25519"
    project.git("init", "-q", "--bare", str(bare))
    project.git("remote", "add", "origin", f"file://{bare}")
    project.git("config", "push.autoSetupRemote", "true")
    key.parent.mkdir()
    subprocess.run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)), check=True)
    [unit] = re.findall(r"^```yaml\n(unit:\n.*?)^```$", (GUIDES / "gate.md").read_text(), re.MULTILINE | re.DOTALL)
    for path in ("src/code", "tests/test", "pyproject.toml"):
        project.write(path, "one\n")
    project.workflow(WORKFLOW.format(image=image) + unit)
    assert project.loom("gate").code == 0
    project.write("tests/test", "two\n")
    project.commit()

    follow("gate.md", project.root, project.environ)
    assert project.git("ls-remote", "origin", "main").split()[0] == project.git("rev-parse", "HEAD").strip()
    checked = follow("attest.md", project.root, project.environ)[-1].splitlines()
    assert checked[0].startswith('Good "loom" signature for dev@example.org')
    assert checked[-1] == checked[-2] == project.git("rev-parse", "HEAD^{tree}").strip()
