"""The address at which a container reaches a server of loom's process, and nothing beyond its network does."""

import secrets
from collections.abc import Iterator
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import docker
import pytest

from loom.action_services.requests import ServiceStore
from loom.action_services.server import ResultsServer
from loom.plan.model import Network
from loom.providers.base import SessionRequest
from loom.providers.docker.provider import host_address
from loom.util.masking import Masker

pytestmark = pytest.mark.docker


@pytest.fixture
def client() -> Iterator[Any]:
    made = docker.from_env()
    yield made
    made.close()


def request(**more: Any) -> SessionRequest:
    site = Path("/nowhere")
    return SessionRequest(run_id="1", job_id="a", workspace=site, project_dir="/w", environment={}, shell=(), **more)


@pytest.mark.parametrize("internal", [None, False, True], ids=["the engine's own", "of services", "isolated"])
def test_a_container_reaches_the_services_at_it(client: Any, tmp_path: Path, internal: bool | None) -> None:
    network = (
        None if internal is None else client.networks.create(f"loom-test-{secrets.token_hex(3)}", internal=internal)
    )
    server = ResultsServer(
        ServiceStore(
            cache=None,
            jobs_of=lambda _: (),
            folder_of=lambda _: tmp_path,
            record=tmp_path,
            most_bytes=1,
            masker=Masker(),
        )
    )
    try:
        way = host_address(client, request(network_id=None if network is None else network.id))
        assert way is not None
        url = server.listen(way)
        port = url.rpartition(":")[2]
        script = (
            f"exec 3<>/dev/tcp/{ip_interface(way).ip}/{port}; printf 'GET /x HTTP/1.0\\r\\n\\r\\n' >&3; head -1 <&3"
        )
        said = client.containers.run(
            "debian:trixie-slim",
            ["bash", "-c", script],
            network="bridge" if network is None else network.id,
            remove=True,
        )
        assert b" 404 " in said
    finally:
        server.close()
        if network is not None:
            network.remove()


def test_no_network_has_no_way_and_this_machines_own_is_its_own(client: Any) -> None:
    assert host_address(client, request(network=Network(mode="none"))) is None
    assert host_address(client, request(network=Network(mode="host"))) == "127.0.0.1/8"
