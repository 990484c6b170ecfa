"""Containers of jobs and services: their images, and the options of `docker create` that loom has a setting for."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from loom.plan import model as p
from loom.util.units import duration, memory, processors, whole_number

_FLAGS = frozenset(
    {"--privileged", "--init", "--rm", "--no-healthcheck", "--tty", "-t", "--interactive", "-i", "--read-only"}
)
_SHORT = {"-u": "--user", "-m": "--memory", "-e": "--env", "-h": "--hostname", "-w": "--workdir", "-p": "--publish"}
_SHORT |= {"-l": "--label", "-v": "--volume"}
_SOCKET = "/var/run/docker.sock"
_IGNORED = frozenset(
    {
        "--init",
        "--rm",
        "--tty",
        "--interactive",
        "-t",
        "-i",
        "--name",
        "--label",
        "--restart",
        "--pull",
        "--stop-timeout",
    }
    | {"--no-healthcheck", "--health-retries", "--health-timeout", "--health-start-period", "--log-driver", "--log-opt"}
)
"""Options that decide nothing here."""


class BadOption(ValueError):
    """An option without a setting of loom's; the message names it."""


class ContainerOptions(Struct, kw_only=True):
    user: str | None = None
    hostname: str | None = None
    entrypoint: tuple[str, ...] | None = None
    platform: str | None = None
    privileged: bool = False
    docker_socket: bool = False
    health_command: str | None = None
    health_interval_s: float = 1.0
    aliases: list[str] = []
    env: dict[str, str] = {}
    extra_hosts: dict[str, str] = {}
    volumes: list[str] = []
    resources: dict[str, Any] = {}


def options_of(text: str) -> ContainerOptions:
    """Parse `options`. Raises BadOption."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise BadOption(f"options: not a command line: {error}") from error
    found = ContainerOptions()
    while words:
        name, equals, value = words.pop(0).partition("=")
        name = _SHORT.get(name, name)
        if name in _FLAGS:
            value = value or "true"
        elif not equals:
            if not words:
                raise BadOption(f"options: {name} has no value")
            value = words.pop(0)
        if name in _IGNORED:
            continue
        take = _TAKEN.get(name)
        if take is None:
            raise BadOption(f"options: {name} is not supported")
        try:
            take(found, value)
        except ValueError as error:
            raise BadOption(f"options: {name}: {error}") from error
    return found


def _pair(value: str, separator: str) -> tuple[str, str]:
    name, _, rest = value.partition(separator)
    return name, rest


def _resource(name: str, parse: Callable[[str], Any]) -> Callable[[ContainerOptions, str], None]:
    def take(found: ContainerOptions, value: str) -> None:
        found.resources[name] = parse(value)

    return take


_FLAG_VALUES = {
    **dict.fromkeys(("1", "t", "T", "true", "True", "TRUE"), True),
    **dict.fromkeys(("0", "f", "F", "false", "False", "FALSE"), False),
}
"""The values that Docker takes for a flag."""


def _flag(value: str) -> bool:
    if value not in _FLAG_VALUES:
        raise ValueError(f"expected true or false, found {value!r}")
    return _FLAG_VALUES[value]


def _add(name: str) -> Callable[[ContainerOptions, str], None]:
    def take(found: ContainerOptions, value: str) -> None:
        found.resources[name] = (*found.resources.get(name, ()), value)

    return take


def _ulimit(found: ContainerOptions, value: str) -> None:
    name, limits = _pair(value, "=")
    soft, hard = _pair(limits, ":")
    one = p.Ulimit(name=name, soft=whole_number(soft), hard=whole_number(hard or soft))
    found.resources["ulimits"] = (*found.resources.get("ulimits", ()), one)


def add_volume(found: ContainerOptions, value: str) -> None:
    """Add `[SOURCE:]TARGET[:MODE]`. A new machine's /tmp is as empty as a volume. Raises ValueError."""
    source, _, rest = value.partition(":")
    source, target = (source, rest.partition(":")[0]) if rest else ("", source)
    if not target.startswith("/"):
        raise ValueError(f"{value}: expected NAME:/PATH or /PATH")
    if (source, target) == (_SOCKET, _SOCKET):
        found.docker_socket = True
        return
    if source.startswith(("/", ".", "~", "$")) and f"{source}/"[:5] != "/tmp/":
        raise ValueError(f"{value}: a container gets no directory of this machine; name a volume, or a path below /tmp")
    if source and not source.startswith("/"):
        found.volumes.append(source)
    _add("volumes")(found, target)


_TAKEN: Mapping[str, Callable[[ContainerOptions, str], None]] = {
    "--user": lambda found, value: setattr(found, "user", value),
    "--hostname": lambda found, value: setattr(found, "hostname", value),
    "--entrypoint": lambda found, value: setattr(found, "entrypoint", (value,) if value else ()),
    "--platform": lambda found, value: setattr(found, "platform", value),
    "--privileged": lambda found, value: setattr(found, "privileged", _flag(value)),
    "--health-cmd": lambda found, value: setattr(found, "health_command", value),
    "--health-interval": lambda found, value: setattr(found, "health_interval_s", duration(value)),
    "--network-alias": lambda found, value: found.aliases.append(value),
    "--env": lambda found, value: found.env.update([_pair(value, "=")]),
    "--add-host": lambda found, value: found.extra_hosts.update([_pair(value, ":")]),
    "--cpus": _resource("cpus", processors),
    "--memory": _resource("memory", memory),
    "--shm-size": _resource("shm_size", memory),
    "--pids-limit": _resource("pids", whole_number),
    "--gpus": _resource("gpus", str),
    "--read-only": _resource("read_only", _flag),
    "--tmpfs": _add("tmpfs"),
    "--volume": add_volume,
    "--device": _add("devices"),
    "--ulimit": _ulimit,
}
