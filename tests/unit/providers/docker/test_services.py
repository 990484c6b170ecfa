"""Which ports of a service a job is told of, and under which names."""

import pytest

from loom.plan.model import Image, Ready, Service
from loom.providers.docker.images import ResolvedImage
from loom.providers.docker.readiness import ports_of
from loom.providers.docker.service import RunningService

EXPOSES = {"ExposedPorts": {"9000/tcp": {}, "5432/tcp": {}, "53/udp": {}}}


@pytest.mark.parametrize(
    ("ready", "config", "ports"),
    [
        (Ready(), EXPOSES, [5432, 9000]),
        (Ready(tcp=9000), EXPOSES, [9000, 5432]),
        (Ready(http=":8080/health"), EXPOSES, [8080, 5432, 9000]),
        (Ready(http="http://localhost:8080/health"), {}, [8080]),
        (Ready(http="/health"), EXPOSES, [5432, 9000]),
        (Ready(log="up"), {}, []),
    ],
)
def test_the_port_that_the_job_names_comes_first(ready: Ready, config: dict[str, object], ports: list[int]) -> None:
    assert ports_of(Service(name="db", aliases=("db",), image=Image(name="x"), ready=ready), config) == ports


def test_variables_are_named_after_the_service() -> None:
    image = ResolvedImage(name="x", image_id="i", digest="", size=0, user="", platform="linux/amd64")
    running = RunningService(
        name="my-db.1",
        aliases=("db",),
        container_id="c",
        container_name="c",
        image=image,
        host="127.0.0.1",
        ports={5432: 40001, 9000: 40002},
    )
    assert running.variables == {
        "LOOM_SERVICE_MY_DB_1_HOST": "127.0.0.1",
        "LOOM_SERVICE_MY_DB_1_PORT": "40001",
        "LOOM_SERVICE_MY_DB_1_PORT_5432": "40001",
        "LOOM_SERVICE_MY_DB_1_PORT_9000": "40002",
    }
