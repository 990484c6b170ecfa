"""Connecting to an engine: one that hangs, and one that answers."""

import json
import socket
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from loom.errors import EngineUnavailable
from loom.providers.docker.engine import client
from loom.providers.docker.engine.client import connect


def test_a_hanging_socket_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_ANSWER_S", 1)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "hangs.sock"))
        listener.listen()
        with pytest.raises(EngineUnavailable, match="timed out"):
            connect({"DOCKER_HOST": f"unix://{tmp_path}/hangs.sock"})


def test_requests_for_different_paths_share_a_connection(tmp_path: Path) -> None:
    connections, paths = [], []

    class Engine(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            connections.append(self)

        def do_GET(self) -> None:
            paths.append(self.path)
            body = json.dumps({"ApiVersion": "1.45", "Id": self.path}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with socketserver.ThreadingUnixStreamServer(str(tmp_path / "engine.sock"), Engine) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        engine = connect({"DOCKER_HOST": f"unix://{tmp_path}/engine.sock"})
        for name in ("one", "two"):
            assert engine.api.inspect_image(name)["Id"] == f"/v1.45/images/{name}/json"
        engine.close()
        server.shutdown()
    assert paths == ["/version", "/v1.45/images/one/json", "/v1.45/images/two/json"]
    assert len(connections) == 1
