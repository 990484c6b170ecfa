"""When a service is ready."""

import pytest

from loom.errors import ServiceError
from loom.plan.model import Image, Ready, Service
from loom.providers.docker.services.readiness import (
    CommandProbe,
    HttpProbe,
    LogProbe,
    NotReady,
    PortProbe,
    Probe,
    exposed_ports,
    healthcheck,
    listening_ports,
    ports_of,
    probe_of,
)

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000   100        0 1 1 0 100 0 0 10 0
   1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000   100        0 1 1 0 100 0 0 10 0
   2: 030011AC:1F90 00000000:0000 01 00000000:00000000 00:00000000 00000000   100        0 1 1 0 100 0 0 10 0
  sl  local_address                         remote_address                        st tx_queue
   0: 00000000000000000000000000000000:18EB 00000000000000000000000000000000:0000 0A 00000000:00000000
   1: 00000000000000000000000001000000:2000 00000000000000000000000000000000:0000 0A 00000000:00000000
"""


def test_listening_ports_are_those_that_others_reach() -> None:
    assert listening_ports(TCP) == {80, 6379}


@pytest.mark.parametrize(
    ("config", "command"),
    [
        ({}, None),
        ({"Healthcheck": None}, None),
        ({"Healthcheck": {"Test": ["NONE"]}}, None),
        ({"Healthcheck": {"Test": ["CMD", "a", "b"]}}, ["a", "b"]),
        ({"Healthcheck": {"Test": ["CMD-SHELL", "a || b"]}}, ["/bin/sh", "-c", "a || b"]),
        ({"Healthcheck": {"Test": ["CMD-SHELL", "a"]}, "Shell": ["/bin/bash", "-c"]}, ["/bin/bash", "-c", "a"]),
    ],
)
def test_healthchecks(config: dict[str, object], command: list[str] | None) -> None:
    assert healthcheck(config) == command


def test_exposed_ports() -> None:
    assert exposed_ports({"ExposedPorts": {"443/tcp": {}, "80": {}, "53/udp": {}}}) == [80, 443]
    assert exposed_ports({"ExposedPorts": None}) == []


@pytest.mark.parametrize(
    ("ready", "config", "kind"),
    [
        (Ready(tcp=1), {"Healthcheck": {"Test": ["CMD", "x"]}}, PortProbe),
        (Ready(command=("x",)), {}, CommandProbe),
        (Ready(http="/x"), {}, HttpProbe),
        (Ready(log="x"), {}, LogProbe),
        (Ready(), {"Healthcheck": {"Test": ["CMD", "x"]}, "ExposedPorts": {"1/tcp": {}}}, CommandProbe),
        (Ready(), {"ExposedPorts": {"1/tcp": {}}}, PortProbe),
        (Ready(), {"ExposedPorts": {"1/udp": {}}}, Probe),
        (Ready(), {}, Probe),
    ],
)
def test_which_probe(ready: Ready, config: dict[str, object], kind: type) -> None:
    service = Service(name="s", aliases=("s",), image=Image(name="x"), ready=ready)
    assert type(probe_of(service, config)) is kind


@pytest.mark.parametrize(
    ("http", "what"),
    [
        ("/health", "answer to /health on port 8080"),
        (":90/x?y=1", "answer to /x?y=1 on port 90"),
        ("90", "answer to / on port 90"),
        ("http://db/x", "answer to /x on port 80"),
        ("https://db", "answer to / on port 443"),
        ("http://db:81/", "answer to / on port 81"),
    ],
)
def test_http_addresses(http: str, what: str) -> None:
    assert HttpProbe(http, [8080, 9090]).what == what


def test_what_is_no_address_and_no_pattern() -> None:
    with pytest.raises(ServiceError, match="is not an address"):
        HttpProbe("db:x/y", [])
    with pytest.raises(ServiceError, match="not a pattern"):
        LogProbe("(")


@pytest.mark.slow
def test_no_line_of_a_service_keeps_the_matcher_for_ever() -> None:
    with pytest.raises(ServiceError, match="longer than 1000 characters"):
        LogProbe("x" * 1001)
    probe = LogProbe("(x+x+)+y|x is ready")
    probe.see_line("x" * 100_000)
    with pytest.raises(NotReady, match="took longer than 1 s"):
        probe.check(None)  # type: ignore[arg-type]
    probe.see_line("x is ready" + " " * 100_000)
    probe.check(None)  # type: ignore[arg-type]


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
