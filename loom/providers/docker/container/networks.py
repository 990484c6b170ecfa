"""The networks that containers are in, as this machine sees them."""

from __future__ import annotations

import socket
from contextlib import suppress
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from loom.providers.docker.engine.errors import translated

if TYPE_CHECKING:
    import docker

    from loom.providers.base import SessionRequest


def way_here(client: docker.DockerClient, request: SessionRequest) -> str | None:
    """Return this machine's address in the container's network (`Provider.way_here`).

    That is the network's gateway, or, where loom runs in a container itself, this container's address. An engine in a virtual
    machine has its networks there, and so this machine has no address in them.
    """
    network = request.network_id or request.network.mode or "bridge"
    with translated(f"asking for the network of job {request.job_id}"):
        while network.startswith("container:"):
            found = client.api.inspect_container(network.partition(":")[2])
            joined = found["HostConfig"]["NetworkMode"]
            of_its_own = joined not in ("none", "host") and not joined.startswith("container:")
            network = next(iter(found["NetworkSettings"]["Networks"])) if of_its_own else joined
        if network == "none":
            return None
        if network == "host":
            return "127.0.0.1/8"
        found = client.api.inspect_network("bridge" if network == "default" else network)
    for part in (found.get("IPAM") or {}).get("Config") or ():
        with suppress(ValueError, OSError):
            subnet = ip_network(part["Subnet"])
            gateway = part.get("Gateway") or str(subnet[1])
            family = socket.AF_INET if subnet.version == 4 else socket.AF_INET6
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((gateway.partition("/")[0], 9))  # sends nothing
                own = ip_address(probe.getsockname()[0])
            if own in subnet:
                return f"{own}/{subnet.prefixlen}"
    return None
