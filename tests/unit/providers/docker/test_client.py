"""Connecting to an engine that hangs."""

import socket
from pathlib import Path

import pytest

from loom.errors import EngineUnavailable
from loom.providers.docker import client
from loom.providers.docker.client import connect


def test_a_hanging_socket_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_ANSWER_S", 1)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "hangs.sock"))
        listener.listen()
        with pytest.raises(EngineUnavailable, match="timed out"):
            connect({"DOCKER_HOST": f"unix://{tmp_path}/hangs.sock"})
