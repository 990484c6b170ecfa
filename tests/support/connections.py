"""Ports, and programs between a client and a server, for tests that disturb what they say."""

import random
import socket
import threading
from collections.abc import Callable
from contextlib import suppress


def free_port() -> int:
    """Return a port of this machine on which nobody listens, below those that the kernel gives out by itself.

    The kernel could give one of its own to another test before the server has it, or to the connection that looks for the
    server.
    """
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", random.randrange(20_000, 32_000)))
            return int(probe.getsockname()[1])


def serve_each(listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    """Serve each connection in a thread of its own, until somebody closes the listener. `serve` closes the connection."""

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
