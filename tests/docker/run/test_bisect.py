"""`loom bisect` in containers: commits that fail in another way, and those whose image is gone, are skipped."""

import json

import pytest

from tests.docker.run.conftest import Project
from tests.docker.run.conftest import project as project
from tests.support.connections import free_port

pytestmark = pytest.mark.docker


def committed(project: Project, number: int, says: str, image: str = "debian:trixie-slim", pull: str = "never") -> None:
    job = {"image": {"name": image, "pull_policy": pull}, "script": [says], "variables": {"NUMBER": str(number)}}
    project.write(".gitlab-ci.yml", json.dumps({"test": job}))
    project.commit()


def test_the_failure_is_found_behind_broken_builds_and_lost_images(project: Project) -> None:
    broken, wanted = "echo 'main.c:3:1: error: expected brace'; exit 2", "echo 'FAILED t.py::a - assert 3 == 1'; exit 1"
    for number in range(12):
        says = "true" if number < 3 else broken if number < 8 else wanted if number > 9 else "exit 0"
        committed(project, number, says, "debian:gone" if number in (5, 9) else "debian:trixie-slim")
    done = project.loom("bisect", "test", "HEAD~11", "--trust", "--json")
    assert done.code == 2, done.err
    found = json.loads(done.out)
    numbers = {sha: number for number, sha in enumerate(project.git("rev-list", "--reverse", "-12", "HEAD").split())}
    assert [numbers[sha] for sha in found["candidates"]] == [9, 10]
    reasons = {numbers[each["commit"]]: each["reason"] for each in found["tested"] if each["verdict"] == "skip"}
    assert "debian:gone" in reasons.pop(9)
    assert reasons
    assert all("debian:gone" in reason if at == 5 else "another exit code" in reason for at, reason in reasons.items())


def test_a_registry_that_is_down_ends_it(project: Project) -> None:
    """It says nothing about the commit: the same command goes on later."""
    committed(project, 1, "true")
    committed(project, 2, "true", f"localhost:{free_port()}/one:1", "always")
    committed(project, 3, "exit 1")
    done = project.loom("bisect", "test", "HEAD~2", "--trust")
    assert (done.code, "can't be reached" in done.err) == (3, True), done
