"""Pass secrets to services through the container's standard input, before its program starts. The engine never gets them."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from loom.providers.docker.session.attach import Hijacked

# Reads one line, shell code that stores the secrets, then runs the container's command.
_TAKES_SECRETS = (
    "/bin/sh",
    "-c",
    'IFS= read -r line && eval "$line" || { echo "loom: the secrets did not arrive" >&2; exit 125; }; exec "$@" </dev/null',
    "loom",
)
_HAND_OVER_WITHIN_S = 60


def wrapped(
    entrypoint: Sequence[str] | None, command: Sequence[str] | None, config: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """Wrap a command to read the secrets first; an entrypoint cancels the image's command."""
    if entrypoint is None:
        command = command if command is not None else config.get("Cmd")
        entrypoint = config.get("Entrypoint")
    return [*_TAKES_SECRETS, *(entrypoint or ())], list(command or ())


def send(output: Hijacked, line: bytes) -> None:
    """Send the secrets. A service that has ended does not take them; its end is reported elsewhere."""
    output.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _HAND_OVER_WITHIN_S, 0))
    with suppress(OSError):
        output.socket.sendall(line)  # no limit: set in the previous line
