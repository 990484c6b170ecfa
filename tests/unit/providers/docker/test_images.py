"""What the engine's and the registries' answers mean: progress, errors, credentials, probes. No engine is asked."""

import base64
import json
import threading
import time
from pathlib import Path

import pytest

from loom.cancel import Cancel
from loom.errors import EngineUnavailable, ImageError, RequestError
from loom.images.reference import parse_reference
from loom.plan.model import Image, Ready, Service
from loom.providers.docker.build_output import what_failed
from loom.providers.docker.credentials import DOCKER_HUB_KEY, Credentials, credentials_for
from loom.providers.docker.errors import engine_errors
from loom.providers.docker.long_calls import in_background
from loom.providers.docker.readiness import (
    CommandProbe,
    HttpProbe,
    LogProbe,
    NotReady,
    PortProbe,
    RunsProbe,
    exposed_ports,
    healthcheck,
    listening_ports,
    probe_of,
)
from loom.providers.docker.registry import Progress, explain
from loom.providers.docker.services import container_names
from loom.util.units import rough_size


def test_progress_sums_layers_and_never_goes_back() -> None:
    progress = Progress()
    for line in (
        {"status": "Pulling from library/debian", "id": "12"},
        {"status": "Pulling fs layer", "id": "a", "progressDetail": {}},
        {"status": "Pulling fs layer", "id": "b", "progressDetail": {}},
        {"status": "Already exists", "id": "c", "progressDetail": {}},
        {"status": "Downloading", "id": "a", "progressDetail": {"current": 1_000_000, "total": 4_000_000}},
        {"status": "Waiting", "id": "b"},
    ):
        progress.see(line)
    assert str(progress) == "1 of 3 layers, 1.0 MB of 4.0 MB"
    progress.see({"status": "Download complete", "id": "a"})
    assert str(progress) == "1 of 3 layers, 4.0 MB of 4.0 MB"
    progress.see({"status": "Pull complete", "id": "a"})
    progress.see({"status": "Digest: sha256:abc"})
    assert (str(progress), progress.digest) == ("2 of 3 layers, 4.0 MB of 4.0 MB", "sha256:abc")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_400, "99.4 kB"),
        (119_801_431, "120 MB"),
        (999_600_000, "1.0 GB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert rough_size(size) == text


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("manifest for x:1 not found: manifest unknown: manifest unknown", "IMAGE_NOT_FOUND"),
        ("pull access denied for x, repository does not exist or may require 'docker login': denied", "IMAGE_DENIED"),
        ('Head "http://h/v2/x/manifests/1": no basic auth credentials', "IMAGE_DENIED"),
        ("unauthorized: authentication required", "IMAGE_DENIED"),
        ("toomanyrequests: You have reached your pull rate limit", "IMAGE_RATE_LIMITED"),
        ("no matching manifest for linux/arm64/v8 in the manifest list entries", "IMAGE_PLATFORM"),
        (
            "image with reference x was found but does not match the specified platform: wanted a, actual: b",
            "IMAGE_PLATFORM",
        ),
        ('Get "http://h/v2/": dial tcp 127.0.0.1:1: connect: connection refused', "IMAGE_REGISTRY_DOWN"),
        ("dial tcp: lookup h on 10.0.0.1:53: no such host", "IMAGE_REGISTRY_DOWN"),
        ("net/http: TLS handshake timeout", "IMAGE_REGISTRY_DOWN"),
        ("received unexpected HTTP status: 503 Service Unavailable", "IMAGE_REGISTRY_DOWN"),
        ("failed to register layer: write /x: no space left on device", "IMAGE_DISK_FULL"),
        ("something new", "IMAGE_UNAVAILABLE"),
    ],
)
def test_every_refusal_of_a_registry_has_its_code_and_a_next_move(said: str, code: str) -> None:
    error = explain(parse_reference("h:5/x:1"), said, "linux/amd64", Credentials(source="none"))
    assert (error.code, error.exit_code) == (code, 3)
    assert error.hint
    assert said in str(error)


def test_a_denial_says_which_credentials_were_refused() -> None:
    used = Credentials(source="docker-credential-x", auth={"username": "u", "password": "hush"})
    error = explain(parse_reference("x"), "unauthorized", "linux/amd64", used)
    assert "docker-credential-x were refused" in error.message
    assert "(docker login)" in (error.hint or "")
    assert "hush" not in str(error)
    assert "hush" not in repr(used)


def configured(folder: Path, config: object) -> dict[str, str]:
    (folder / "config.json").write_text(json.dumps(config))
    return {"DOCKER_CONFIG": str(folder), "PATH": "/nowhere"}


BASIC = base64.b64encode(b"user:pass:word").decode()


def test_credentials_of_docker_hub_in_its_spellings(tmp_path: Path) -> None:
    for key in (DOCKER_HUB_KEY, "docker.io", "index.docker.io", "registry-1.docker.io"):
        found = credentials_for("docker.io", configured(tmp_path, {"auths": {key: {"auth": BASIC}}}))
        assert found.auth == {"username": "user", "password": "pass:word", "serveraddress": DOCKER_HUB_KEY}
    assert credentials_for("quay.io", configured(tmp_path, {"auths": {DOCKER_HUB_KEY: {"auth": BASIC}}})).auth == {}


def test_tokens(tmp_path: Path) -> None:
    found = credentials_for("h", configured(tmp_path, {"auths": {"h": {"identitytoken": "t"}}}))
    assert found.auth == {"identitytoken": "t", "serveraddress": "h"}


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ([], "is not a JSON object"),
        ({"auths": {"h": {"auth": "%%%"}}}, "entry for h is not valid"),
        ({"auths": {"h": {"auth": base64.b64encode(b"nocolon").decode()}}}, "entry for h is not valid"),
        ({"credsStore": "x"}, "docker-credential-x is not installed"),
        ({"credHelpers": {"h": "y"}}, "docker-credential-y is not installed"),
    ],
)
def test_configured_and_not_to_be_had(tmp_path: Path, config: object, problem: str) -> None:
    found = credentials_for("h", configured(tmp_path, config))
    assert found.auth == {}
    assert problem in (found.problem or "")


@pytest.mark.parametrize(
    "config", [{}, {"auths": {}}, {"auths": {"h": {}}}, {"auths": None}, {"credHelpers": {"other": "x"}}]
)
def test_nothing_configured_is_no_problem(tmp_path: Path, config: object) -> None:
    found = credentials_for("h", configured(tmp_path, config))
    assert (found.auth, found.problem) == ({}, None)


def test_no_configuration_at_all(tmp_path: Path) -> None:
    found = credentials_for("h", {"HOME": str(tmp_path)})
    assert (found.auth, found.problem) == ({}, None)


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
        (Ready(), {"ExposedPorts": {"1/udp": {}}}, RunsProbe),
        (Ready(), {}, RunsProbe),
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
    with pytest.raises(RequestError, match="is no address"):
        HttpProbe("db:x/y", [])
    with pytest.raises(RequestError, match="not a pattern"):
        LogProbe("(")


def test_a_blocking_stream_hands_on_items_and_errors() -> None:
    assert list(in_background(iter([1, 2, 3]), Cancel(), what="x")) == [1, 2, 3]

    def broken() -> object:
        yield 1
        raise ValueError("inside")

    items = in_background(broken(), Cancel(), what="x")  # type: ignore[arg-type]
    assert next(items) == 1
    with pytest.raises(ValueError, match="inside"):
        next(items)


def test_a_cancel_ends_the_wait_for_a_stream_that_says_nothing() -> None:
    cancel = Cancel()
    threading.Timer(0.1, cancel.request).start()
    release = threading.Event()

    def silent() -> object:
        release.wait(10)
        yield 1

    started = time.monotonic()
    with pytest.raises(ImageError, match="canceled while x"):
        next(in_background(silent(), cancel, what="x"))  # type: ignore[arg-type]
    assert time.monotonic() - started < 5
    release.set()


def test_a_lost_engine_is_told_from_an_answer_of_the_engine() -> None:
    import docker.errors

    with pytest.raises(EngineUnavailable, match="refused"), engine_errors():
        raise ConnectionRefusedError("refused")
    with pytest.raises(docker.errors.APIError), engine_errors():
        raise docker.errors.APIError("an answer")
    with pytest.raises(ZeroDivisionError), engine_errors():
        _ = 1 / 0


def test_container_names_are_fit_and_unique() -> None:
    names = container_names(["db", "a b/c", "DB", "db", "...", "x" * 99])
    assert names == ["db", "a-b-c", "DB-2", "db-3", "service", "x" * 40]


BUILDKIT_SAID = """\
#6 ERROR: failed to calculate checksum: "/nothing": not found
------
 > [3/3] COPY nothing /x:
------
Dockerfile:3
--------------------
   1 |     FROM debian
   2 |     RUN true
   3 | >>> COPY nothing /x
   4 |
--------------------
ERROR: failed to solve: failed to compute cache key: "/nothing": not found
"""


@pytest.mark.parametrize(
    ("said", "failed"),
    [
        (BUILDKIT_SAID, (3, "COPY nothing /x", 'failed to compute cache key: "/nothing": not found')),
        (
            "Step 1/2 : FROM x\n ---> 1\nStep 2/2 : RUN false\n ---> Running in 2\n",
            (None, "RUN false", "---> Running in 2"),
        ),
        ("", (None, None, "it said nothing")),
    ],
)
def test_which_line_of_a_build_failed(said: str, failed: tuple[int | None, str | None, str]) -> None:
    assert what_failed(said) == failed


def test_no_line_of_a_service_keeps_the_matcher_for_ever() -> None:
    with pytest.raises(RequestError, match="longer than 1000 characters"):
        LogProbe("x" * 1001)
    probe = LogProbe("(x+x+)+y|x is ready")
    probe.see_line("x" * 100_000)
    with pytest.raises(NotReady, match="took longer than 1 s"):
        probe.check(None)  # type: ignore[arg-type]
    probe.see_line("x is ready" + " " * 100_000)
    probe.check(None)  # type: ignore[arg-type]
