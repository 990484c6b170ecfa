"""Where a running service is."""

from loom.providers.docker.images.store import ResolvedImage
from loom.providers.docker.services.service import RunningService


def test_variables_are_named_after_the_service() -> None:
    image = ResolvedImage(name="x", image_id="i", digest="", size=0, user="", platform="linux/amd64")
    running = RunningService(
        name="my-db.1",
        container_id="c",
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
