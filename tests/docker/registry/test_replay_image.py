"""`loom replay` with images of which the tags serve others by now: all of them run by the digests of the record."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.docker.run.conftest import Project
from tests.docker.run.conftest import project as project
from tests.docker.run.test_debug import clean
from tests.support.own_engine import load_busybox

pytestmark = pytest.mark.docker

WORKFLOW = """
test:
  image: {name}
  services: [{{name: "{name}", alias: db, command: [sleep, "1000"]}}]
  script: [exit 3]
"""
BUILDING = """
version: v1
stages: [t]
test: {stage: t, image: {build: {dockerfile: Dockerfile}}, script: [test -e /built, exit 3]}
"""


@pytest.fixture
def base(registry: Any, client: docker.DockerClient, busybox: bytes) -> str:
    """A small image that the registry and the engine have."""
    name = f"{registry.host}/base:1"
    load_busybox(client, busybox)
    client.images.get("ash:test").tag(name)
    client.images.push(name)
    client.images.remove("ash:test")
    return name


def test_job_and_service_run_by_the_digests_that_ran(
    project: Project,
    registry: Any,
    base: str,
    client: docker.DockerClient,
    publish: Callable[..., str],
    remove: Callable[[str], None],
    tmp_path: Path,
) -> None:
    file = str(tmp_path / "x.bundle")
    project.write(".gitlab-ci.yml", WORKFLOW.format(name=base))
    project.commit()
    assert project.run("--quiet").code == 1
    assert project.loom("bundle", "--full", "-o", file).code == 0
    (digest,) = [one for one in client.images.get(base).attrs["RepoDigests"] if one.startswith(registry.host)]
    for each in (base, digest):
        remove(each)
    publish(registry, "base:1")  # it has no shell
    shutil.rmtree(project.root / ".git")
    again = project.loom("replay", file, "--trust", "--json")
    found = json.loads(again.out)
    assert (found["verdict"], found["notes"], found["differs"]) == ("reproduced", [], []), again.err
    receipt = json.loads(next(project.home.rglob(f"receipts/*{found['run_id']}.json")).read_text())
    assert {one["digest"] for one in receipt["images"]} == {digest.partition("@")[2]}
    clean(project)


def test_an_image_is_built_on_the_base_that_it_had(
    project: Project,
    registry: Any,
    base: str,
    client: docker.DockerClient,
    publish: Callable[..., str],
    remove: Callable[[str], None],
    tmp_path: Path,
) -> None:
    file = str(tmp_path / "x.bundle")
    project.write(".loom/workflow.yml", BUILDING)
    project.write("Dockerfile", f"FROM {base}\nRUN touch /built\n")
    project.commit()
    assert project.run("--quiet").code == 1
    assert project.loom("bundle", "--full", "-o", file).code == 0
    receipt = json.loads(next(project.home.rglob("receipts/*.json")).read_text())
    (digest,) = [one["digest"] for one in receipt["images"] if one["name"] == base]
    (built,) = [one["id"] for one in receipt["images"] if one["name"] != base]
    client.images.remove(built, force=True)
    for each in (base, f"{registry.host}/base@{digest}"):
        remove(each)
    publish(registry, "base:1")  # it has no shell
    again = project.loom("replay", file, "--trust", "--json")
    found = json.loads(again.out)
    assert (found["verdict"], found["notes"]) == ("reproduced", []), again.err
    receipt = json.loads(next(project.home.rglob(f"receipts/*{found['run_id']}.json")).read_text())
    assert digest in {one["digest"] for one in receipt["images"]}
    clean(project)
