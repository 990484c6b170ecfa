"""Where a container's output is kept, beside what loom reads."""

import os
from typing import Literal

import docker
import pytest

from loom.providers.docker.engine.connection import Engine
from loom.providers.docker.provider import DockerProvider
from tests.docker.providers.conftest import Place
from tests.support.waiting import until

pytestmark = pytest.mark.docker


@pytest.mark.parametrize("driver", ["json-file", "none"])
def test_output_arrives_with_either_log(
    docker_place: Place, engine: docker.DockerClient, driver: Literal["json-file", "none"]
) -> None:
    docker_place.provider = DockerProvider(Engine(os.environ), pid=os.getpid(), log_driver=driver)
    with docker_place.job() as job:
        assert job.run("seq 10000").code == 0
        container = engine.containers.get(job.session.facts.container_id)
        assert container.attrs["HostConfig"]["LogConfig"]["Type"] == driver
        if driver == "json-file":
            # The engine writes its log beside what it streams, and may be behind.
            until(lambda: b"\n9999\n" in container.logs())
    assert docker_place.provider.close() == []
