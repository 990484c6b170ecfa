"""The secrets of a service, as shell code that its container is given before its program starts. The engine never gets them."""

from __future__ import annotations

from collections.abc import Mapping

from loom.errors import ServiceError
from loom.plan import model

FOLDER = "/run/secrets"


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
