"""What a run left in the engine goes with it, and nothing else."""

import os
from collections.abc import Iterator

import docker
import pytest

from loom.providers import labels
from loom.providers.docker.container.cleanup import remove_run

pytestmark = pytest.mark.docker
RUN_ID = f"990{os.getpid()}"
OTHER = f"991{os.getpid()}"


@pytest.fixture
def client() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    try:
        yield client
    finally:
        for run_id in (RUN_ID, OTHER):
            remove_run(client, run_id)
        client.close()


def test_a_runs_things_go_and_anothers_stay(client: docker.DockerClient) -> None:
    for run_id in (RUN_ID, OTHER):
        marks = {labels.RUN: run_id}
        client.containers.create("debian:trixie-slim", ["true"], name=f"loom-test-{run_id}", labels=marks)
        client.networks.create(f"loom-test-{run_id}", labels=marks)
        client.volumes.create(f"loom-test-{run_id}", labels=marks)
    assert sorted(map(str, remove_run(client, RUN_ID))) == [
        f"container loom-test-{RUN_ID}",
        f"network loom-test-{RUN_ID}",
        f"volume loom-test-{RUN_ID}",
    ]
    assert remove_run(client, RUN_ID) == []
    assert client.containers.get(f"loom-test-{OTHER}").labels[labels.RUN] == OTHER
    assert len(client.images.list("debian:trixie-slim")) == 1
