"""Where a container's output is kept, beside what loom reads."""

import os
import time
from typing import Literal

import docker
import pytest

from loom.providers.docker.client import shared
from loom.providers.docker.provider import DockerProvider
from tests.docker.providers.conftest import Place

pytestmark = pytest.mark.docker


@pytest.mark.parametrize("driver", ["json-file", "none"])
def test_output_arrives_with_either_log(
    docker_place: Place, engine: docker.DockerClient, driver: Literal["json-file", "none"]
) -> None:
    docker_place.provider = DockerProvider(shared(os.environ), pid=os.getpid(), log_driver=driver)
    with docker_place.job() as job:
        assert job.run("seq 10000").code == 0
        container = engine.containers.get(job.session.facts.container_id)
        assert container.attrs["HostConfig"]["LogConfig"]["Type"] == driver
        if driver == "json-file":
            deadline = time.monotonic() + 30  # the engine writes its log beside what it streams, and may be behind
            while b"\n9999\n" not in container.logs() and time.monotonic() < deadline:
                time.sleep(0.2)
            assert b"\n9999\n" in container.logs()
    assert docker_place.provider.close() == []
