"""Which engine the environment names, and what to do when none answers there."""

import hashlib
import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from loom.errors import EngineUnavailable, RequestError
from loom.providers.docker.engine import endpoint
from loom.providers.docker.engine.client import connect
from loom.providers.docker.engine.endpoint import Endpoint, endpoint_of


def make_context(home: Path, name: str, host: str, *, tls: bool = False) -> None:
    digest = hashlib.sha256(name.encode()).hexdigest()
    meta = home / ".docker" / "contexts" / "meta" / digest
    meta.mkdir(parents=True)
    (meta / "meta.json").write_text(json.dumps({"Name": name, "Endpoints": {"docker": {"Host": host}}}))
    if tls:
        files = home / ".docker" / "contexts" / "tls" / digest / "docker"
        files.mkdir(parents=True)
        for part in ("ca", "cert", "key"):
            (files / f"{part}.pem").write_text("")


def test_docker_host_wins_over_contexts(tmp_path: Path) -> None:
    make_context(tmp_path, "far", "tcp://far:2376")
    environ = {"HOME": str(tmp_path), "DOCKER_HOST": "/run/x.sock", "DOCKER_CONTEXT": "far"}
    assert endpoint_of(environ) == Endpoint(url="unix:///run/x.sock", source="DOCKER_HOST")


def test_the_current_context_is_the_engine(tmp_path: Path) -> None:
    make_context(tmp_path, "far", "tcp://far:2376", tls=True)
    (tmp_path / ".docker" / "config.json").write_text('{"currentContext": "far"}')
    endpoint = endpoint_of({"HOME": str(tmp_path)})
    assert (endpoint.url, endpoint.source, endpoint.certificates is not None, endpoint.local) == (
        "tcp://far:2376",
        "context far",
        True,
        False,
    )


def test_docker_context_wins_over_the_current_one(tmp_path: Path) -> None:
    make_context(tmp_path, "near", "unix:///run/near.sock")
    (tmp_path / ".docker" / "config.json").write_text('{"currentContext": "far"}')
    endpoint = endpoint_of({"HOME": str(tmp_path), "DOCKER_CONTEXT": "near"})
    assert endpoint.url == "unix:///run/near.sock"
    assert endpoint.local


@pytest.mark.parametrize("config", ["", "{", "[]", "{}", '{"currentContext": "default"}'])
def test_without_a_context_the_default_socket(tmp_path: Path, config: str) -> None:
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_text(config)
    assert endpoint_of({"HOME": str(tmp_path)}).url == endpoint.DEFAULT_SOCKET


@pytest.mark.parametrize(
    ("proxies", "found"),
    [
        ({"default": {"httpProxy": "h", "noProxy": "n", "x": "y"}}, {"HTTP_PROXY": "h", "NO_PROXY": "n"}),
        ({"default": {"httpProxy": "h"}, "unix:///x": {"allProxy": "a"}}, {"ALL_PROXY": "a"}),
        ({"tcp://far:2376": {"httpProxy": "h"}, "default": {"httpsProxy": ""}}, {}),
        ("text", {}),
        ({"default": []}, {}),
    ],
)
def test_the_proxies_are_those_of_the_docker_command(proxies: Any, found: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"proxies": proxies}))
    there = endpoint.proxies_of(Endpoint(url="unix:///x", source=""), {"DOCKER_CONFIG": str(tmp_path)})
    assert there == {**found, **{name.lower(): value for name, value in found.items()}}


def test_an_unknown_context_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"'nowhere' does not exist\n") as caught:
        endpoint_of({"HOME": str(tmp_path), "DOCKER_CONTEXT": "nowhere"})
    assert "docker context ls" in (caught.value.hint or "")


def test_a_missing_socket_says_so_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="its socket is not there") as caught:
        connect({"DOCKER_HOST": f"unix://{tmp_path}/none.sock"})
    assert "DOCKER_HOST" in (caught.value.hint or "")


def test_an_engine_that_wants_tls_says_how_to_give_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as engine:

        def answer() -> None:
            connection, _ = engine.accept()
            connection.recv(65536)
            connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
            connection.close()

        answering = threading.Thread(target=answer)
        answering.start()
        with pytest.raises(EngineUnavailable, match=r"to an HTTPS server\.\n") as caught:
            connect({"DOCKER_HOST": f"tcp://127.0.0.1:{engine.getsockname()[1]}"})
        answering.join()
    assert "DOCKER_CERT_PATH" in (caught.value.hint or "")


def test_a_dead_socket_says_so(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "dead.sock"))
    with pytest.raises(EngineUnavailable, match="nobody listens there"):
        connect({"DOCKER_HOST": f"unix://{tmp_path}/dead.sock"})


def test_another_engine_on_this_machine_is_offered(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        (tmp_path / "podman").mkdir()
        listener.bind(str(tmp_path / "podman" / "podman.sock"))
        listener.listen()
        with pytest.raises(EngineUnavailable) as caught:
            connect({"DOCKER_HOST": f"unix://{tmp_path}/none.sock", "XDG_RUNTIME_DIR": str(tmp_path)})
    assert f"one listens at {tmp_path}/podman/podman.sock: DOCKER_HOST=unix://" in (caught.value.hint or "")
