"""The guides on `gate` and `attest`, word for word: the blocks of a page run as they stand, one after the other."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.docker.run.conftest import Project
from tests.docker.run.conftest import project as project

pytestmark = pytest.mark.docker

GUIDES = Path(__file__).parents[3] / "docs/guides"
NATIVE = """\
version: v1
stages: [test]
default: {{image: '{image}'}}
lint: {{stage: test, script: ls src, inputs: [src]}}
"""
GITLAB = "default: {{image: '{image}'}}\nlint: {{script: ls src}}\nunit: {{script: pytest}}\n"
SUITE = "#!/bin/sh\ncat src/code tests/test pyproject.toml\n"
"""In place of pytest."""


class Guide:
    """A page, whose blocks are taken in their order."""

    def __init__(self, page: str, project: Project) -> None:
        found = re.finditer(r"^```(\w+)\n(.*?)^```$", (GUIDES / page).read_text(), re.MULTILINE | re.DOTALL)
        self._blocks, self._project = [(block[1], block[2]) for block in found], project

    def next(self, kind: str) -> str:
        found, text = self._blocks.pop(0)
        assert found == kind, text
        return text

    def follow(self, kind: str = "console") -> str:
        """Run a block. Each of its commands succeeds, and prints what the page says; return what it printed."""
        text = self.next(kind)
        sessions = re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", text, re.MULTILINE) if kind == "console" else [(text, "")]
        return "".join(self._run(command, said.splitlines()) for command, said in sessions)

    def _run(self, command: str, said: list[str]) -> str:
        environ = self._project.environ
        environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
        done = subprocess.run(
            ("sh", "-euc", command), cwd=self._project.root, env=environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        printed = iter([_plain(line) for line in done.stdout.splitlines()])
        assert [line for line in said if _plain(line) not in printed] == [], (command, done.stdout)
        return done.stdout

    def ended(self) -> bool:
        return not self._blocks


def _plain(line: str) -> str:
    """A line without the numbers of runs and commits."""
    return re.sub(r"\b([0-9]{19}|[0-9a-f]{12})\b", "N", line)


@pytest.fixture
def image(registry: Any, tmp_path: Path) -> Iterator[str]:
    """An image with a digest, as CI's have one."""
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


def test_the_guides_run_as_they_stand(project: Project, image: str) -> None:
    for path in ("src/code", "tests/test", "pyproject.toml"):
        project.write(path, "one\n")
    project.git("init", "-q", "--bare", str(project.root.with_name("bare.git")))
    project.git("remote", "add", "origin", f"file://{project.root.with_name('bare.git')}")
    project.git("config", "push.autoSetupRemote", "true")
    gate = Guide("gate.md", project)
    native = NATIVE.format(image=image)
    project.workflow(native + "unit: {stage: test, script: pytest}\n")
    assert project.loom("gate").code == 0
    project.write("tests/test", "two\n")
    project.commit()
    gate.follow()
    project.workflow(native + gate.next("yaml"))
    assert project.loom("gate").code == 0
    project.write("README", "more\n")
    project.commit()
    assert "2 jobs shown before" in project.loom("gate").out

    (project.root / ".loom/workflow.yml").unlink()
    project.write(".gitlab-ci.yml", GITLAB.format(image=image))
    project.write(".loom/config.yml", gate.next("yaml"))
    project.commit()
    gate.follow()
    gate.follow()
    gate.follow()
    gate.follow()
    assert gate.ended()
    assert project.git("ls-remote", "origin", "main").split()[0] == project.git("rev-parse", "HEAD").strip()

    attest = Guide("attest.md", project)
    (project.home / ".ssh").mkdir()
    key = project.home / ".ssh/id_ed25519"
    subprocess.run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)), check=True)
    attest.follow("sh")
    project.commit()
    attest.follow()
    attest.follow()
    checked = attest.follow("sh").splitlines()
    assert checked[0].startswith('Good "loom" signature for dev@example.org')
    assert checked[-1] == checked[-2] == project.git("rev-parse", "HEAD^{tree}").strip()
    assert attest.ended()
