"""Pass secrets to services through the container's standard input, before its program starts. The engine never gets them."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from loom.errors import ServiceError
from loom.plan import model
from loom.providers.docker.attach import Hijacked

FOLDER = "/run/secrets"
# Reads one line, shell code that stores the secrets, then runs the container's command.
_TAKES_SECRETS = (
    "/bin/sh",
    "-c",
    'IFS= read -r line && eval "$line" || { echo "loom: the secrets did not arrive" >&2; exit 125; }; exec "$@" </dev/null',
    "loom",
)
_HAND_OVER_WITHIN_S = 60


def line_for(service: model.Service, values: Mapping[str, bytes]) -> bytes:
    """Return one line of shell code that stores a service's secrets; empty without any."""
    commands = []
    for secret in service.secrets:
        value = values.get(secret.name)
        if value is None:
            continue
        # Escape all but harmless bytes for printf's %b: no quoting, no line ends.
        written = "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"\\0{byte:03o}" for byte in value)
        if secret.file:
            commands.append(f"(umask 222 && printf %b '{written}' >{FOLDER}/{secret.name})")
        elif b"\0" in value:
            raise ServiceError(
                f"the secret {secret.name} of service {service.name} holds a NUL, and no variable can",
                hint="leave `file: false` out: the service then gets it as a file",
            )
        else:  # command substitution removes trailing line ends: the x keeps them
            commands.append(f"{secret.name}=$(printf %b '{written}x') && export {secret.name}=\"${{{secret.name}%x}}\"")
    return " && ".join(commands).encode() + b"\n" if commands else b""


def variables(service: model.Service) -> dict[str, str]:
    """Return the variables with the paths of its secrets' files."""
    return {f"{secret.name}_FILE": f"{FOLDER}/{secret.name}" for secret in service.secrets if secret.file}


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
