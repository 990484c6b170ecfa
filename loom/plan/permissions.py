"""What a plan, and the project's configuration, ask for that a plain container does not get.

Each is a request, and only the user can allow it (`trust_store`). `ASKS` names the fields of a job that a request comes from;
a test names all others, so that a new one has to be judged.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from loom import config
from loom.plan import model

PlaceOf = Callable[[str, tuple[str | int, ...]], str]
"""Where a job's value is written (`file:line:column`), by the job's name and the keys that lead to it."""


class Request(Struct, frozen=True, kw_only=True):
    """One thing that is asked for. Two with the same `id` are the same, wherever they are written."""

    kind: str
    subject: str
    """The value that was written, and where it leads if that is elsewhere."""
    gives: str
    """What is given away with it, for people."""
    job: str = ""
    """The name of the job that asks; empty for the project's configuration."""
    place: str = ""

    @property
    def id(self) -> str:
        import hashlib

        return hashlib.sha256(
            "\0".join((self.kind, self.job, self.subject)).encode(errors="surrogateescape")
        ).hexdigest()

    def __str__(self) -> str:
        return f"{f'job {self.job}' if self.job else 'the configuration'} asks for {self.subject}: {self.gives}"


class Around(Struct, frozen=True, kw_only=True):
    """What decides whether a value leaves the repository."""

    root: Path
    home: str | None = None
    is_reference: Callable[[str], bool] = lambda _: True
    """Whether a secret's reference is well-formed; another one gets nothing, and may be the value itself: it is not shown."""
    network: str | None = None
    """The configured network mode, which the user has allowed already."""
    is_ignored: Callable[[Path], bool] = lambda _: False
    """Whether git ignores a file below `root`: it is the user's then, and in no snapshot."""


_Asked = tuple[str, str, str]
"""Kind, subject, what it gives."""


def _privileged(value: bool, _: Around) -> Iterator[_Asked]:
    if value:
        yield "privileged", "privileged", "the job can take over the machine that the engine runs on"


def _engine_socket(value: bool, _: Around) -> Iterator[_Asked]:
    if value:
        yield "docker_socket", "docker_socket", "the job commands the engine, and so can take over its machine"


def _network(mode: str | None, around: Around) -> Iterator[_Asked]:
    if mode == around.network or mode in config.PLAIN_NETWORKS:
        return
    if mode == "host":
        yield "network", "network host", "the job reaches what listens on this machine alone"
    else:
        yield "network", f"network {mode}", "the job reaches the containers in it"


def _hosts(hosts: Mapping[str, str], _: Around) -> Iterator[_Asked]:
    for name, address in hosts.items():
        yield "extra_hosts", f"host {name}={address}", "the name leads to that address"


def _devices(devices: Iterable[str], _: Around) -> Iterator[_Asked]:
    for device in devices:
        yield "devices", f"device {device}", "the job uses this device of the engine's machine"


def _gpus(gpus: str | None, _: Around) -> Iterator[_Asked]:
    if gpus:
        yield "gpus", f"gpus {gpus}", "the job uses the GPUs of the engine's machine"


def _secret(reference: str, around: Around) -> Iterator[_Asked]:
    scheme, _, rest = reference.partition("://")
    if not around.is_reference(reference):
        return
    if scheme == "env":
        yield "secret", reference, f"the job gets the variable {rest} of your environment"
    elif scheme != "file":
        yield "secret", reference, "the job gets this value of your secrets"
    elif (elsewhere := _elsewhere(rest, around)) is not None:
        subject = reference if elsewhere == rest else f"{reference} (leads to {elsewhere})"
        yield "secret", subject, "the job gets the content of this file of yours"


def _elsewhere(path: str, around: Around) -> str | None:
    """Where a path leads that is not in the snapshot, being elsewhere, of git itself or ignored by git; None for one that is."""
    home = f"{around.home or ''}{path[1:]}"
    place = home if path.startswith("~") else os.path.join(around.root, path)  # noqa: PTH118  may be absolute
    real, root = Path(os.path.realpath(place)), Path(os.path.realpath(around.root))
    inside = real.relative_to(root) if real.is_relative_to(root) else None
    if inside is not None and ".git" not in map(str.lower, inside.parts) and not around.is_ignored(inside):
        return None
    return path if str(real) == os.path.normpath(place) else str(real)


ASKS: Mapping[tuple[type, str], Callable[[Any, Around], Iterator[_Asked]]] = {
    (model.Job, "privileged"): _privileged,
    (model.Job, "docker_socket"): _engine_socket,
    (model.Network, "mode"): _network,
    (model.Network, "extra_hosts"): _hosts,
    (model.Resources, "devices"): _devices,
    (model.Resources, "gpus"): _gpus,
    (model.Secret, "ref"): _secret,
}


def of_jobs(jobs: Iterable[model.Job], around: Around, place_of: PlaceOf | None = None) -> tuple[Request, ...]:
    """What these jobs ask for, each once: the copies of a matrix ask for the same."""
    found: dict[tuple[str, str, str], Request] = {}
    for job in jobs:
        for path, (kind, subject, gives) in _asked(job, (), around):
            if (kind, job.name, subject) not in found:
                place = place_of(job.name, path) if place_of is not None else ""
                request = Request(kind=kind, subject=subject, gives=gives, job=job.name, place=place)
                found[kind, job.name, subject] = request
    return tuple(found.values())


def _asked(
    value: Struct, path: tuple[str | int, ...], around: Around
) -> Iterator[tuple[tuple[str | int, ...], _Asked]]:
    """What any field asks for, however deep below a job."""
    for name in value.__struct_fields__:
        inner = getattr(value, name)
        if (asks := ASKS.get((type(value), name))) is not None:
            for asked in asks(inner, around):
                yield (*path, name), asked
        elif isinstance(inner, Struct):
            yield from _asked(inner, (*path, name), around)
        elif isinstance(inner, tuple):
            for number, item in enumerate(inner):
                if isinstance(item, Struct):
                    key = item.name if isinstance(item, model.Secret) else number
                    yield from _asked(item, (*path, name, key), around)


def of_setting(asked: config.Asked) -> Request:
    """A line of the project's configuration as a request."""
    subject = f"{asked.name}: {asked.text}"
    return Request(kind="setting", subject=subject, gives=config.gives(asked.name), place=asked.place)
