"""The protocol of a command's streams."""

from typing import Any, cast

import pytest

pytest.importorskip("kubernetes", reason="the extra `kubernetes` is not installed")
from loom.providers.kubernetes.session.exec import Exec


class Socket:
    """Records the frames that are sent."""

    def __init__(self, subprotocol: str) -> None:
        self.subprotocol = subprotocol
        self.sent: list[bytes] = []

    def settimeout(self, seconds: float) -> None:
        pass

    def send(self, frame: bytes, *, opcode: int) -> None:
        self.sent.append(bytes(frame))


class Server:
    def __init__(self, subprotocol: str) -> None:
        self.socket = Socket(subprotocol)

    def websocket(self, *_: object, **__: object) -> Socket:
        return self.socket


@pytest.mark.parametrize(("protocol", "end"), [("v5.channel.k8s.io", [b"\xff\x00"]), ("v4.channel.k8s.io", [])])
def test_the_end_of_the_input_is_sent_where_the_protocol_has_it(protocol: str, end: list[bytes]) -> None:
    server = Server(protocol)
    ran = Exec(cast("Any", server), "pod", "job", ["cat"], stdin=True)
    ran.send(b"text")
    ran.end_input()
    assert server.socket.sent == [b"\x00text", *end]
