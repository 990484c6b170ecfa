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
from loom.providers.docker.session.exec import EngineCommand
from loom.providers.inside import ends_within


@pytest.mark.slow
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


def test_output_that_arrives_with_the_head_of_the_answer_is_not_lost(tmp_path: Path) -> None:
    """As that of a short command does where this process is slow to read: the SDK then has read it ahead."""
    first, rest = (b"\x01\0\0\0\0\0\0\x04" + text for text in (b"one\n", b"two\n"))
    more = threading.Event()

    class Engine(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = json.dumps({"ApiVersion": "1.45", "Running": False, "ExitCode": 5}).encode()
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))  # else the kernel resets the connection at its end
            if self.path.endswith("/containers/c/exec"):
                self.wfile.write(b'HTTP/1.1 201 Created\r\nContent-Length: 10\r\n\r\n{"Id":"x"}')
                return
            self.wfile.write(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n" + first)
            more.wait()
            self.wfile.write(rest)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    with socketserver.ThreadingUnixStreamServer(str(tmp_path / "engine.sock"), Engine) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        engine = connect({"DOCKER_HOST": f"unix://{tmp_path}/engine.sock"})
        command = EngineCommand(engine, "c", ["x"])
        assert command.ready(0) == [command.fileno()]
        assert command.read() == ("stdout", b"one\n")
        assert command.ready(0) == []
        more.set()
        assert ends_within(command, 60)
        assert (command.read(), command.code) == (None, 5)
        assert engine.api.exec_start("x") == b"one\ntwo\n"
        command.close()
        engine.close()
        server.shutdown()
