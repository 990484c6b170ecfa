"""Requests of a plan and of a repository for more than a plain container gets.

Only the user can allow a request (`trust_store`). `ASKS` lists the job fields that cause requests; a test lists all
others, so that each new field has to be classified.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from loom import config
from loom.config.pools import Pool
from loom.plan import model
from loom.values import Immutable

PositionOf = Callable[[str, tuple[str | int, ...]], str]
"""Find where a job's value is written (`file:line:column`), by the job's name and the keys of the value."""


class PermissionRequest(Immutable):
    """One request. Two requests with the same `id` are the same, independent of their position."""

    kind: str
    subject: str
    """The value as written, and its real path if that differs."""
    gives: str
    job: str = ""
    """The name of the requesting job; empty for the repository itself."""
    position: str = ""

    @property
    def id(self) -> str:
        import hashlib

        return hashlib.sha256(
            "\0".join((self.kind, self.job, self.subject)).encode(errors="surrogateescape")
        ).hexdigest()

    @property
    def _asker(self) -> str:
        others = {
            "include": "the workflow",
            "filter": "git's configuration here",
            "objects": "this copy of the repository",
            "token": "the address of a job",
        }
        return f"job {self.job}" if self.job else others[self.kind]

    def __str__(self) -> str:
        return f"{self._asker} asks for {self.subject}: {self.gives}"


class TrustContext(Immutable):
    """Facts that decide whether a value refers outside the repository."""

    root: Path
    home: str | None = None
    is_reference: Callable[[str], bool] = lambda _: True
    """Whether a secret's reference is well-formed; a malformed one is not shown, because it may be the value itself."""
    network: str | None = None
    """The configured network mode, which the user already allowed."""
    pools: Mapping[str, Pool] = {}
    judged: dict[str, str] = {}
    """Filled: the real path of the file behind each reference. Only this file may be read for it (`secrets.stores`)."""
    is_ignored: Callable[[Path], bool] = lambda _: False
    """Whether git ignores a file below `root`; such a file is the user's own and in no snapshot."""


_Asked = tuple[str, str, str]
"""Kind, subject, exposure."""


def _privileged(value: bool, _: TrustContext) -> Iterator[_Asked]:
    if value:
        yield "privileged", "privileged", "the job can take over the machine that the engine runs on"


def _engine_socket(value: bool, _: TrustContext) -> Iterator[_Asked]:
    if value:
        yield "docker_socket", "docker_socket", "the job commands the engine, and so can take over its machine"


def _network(mode: str | None, around: TrustContext) -> Iterator[_Asked]:
    if mode == around.network or mode in config.PLAIN_NETWORKS:
        return
    if mode == "host":
        yield "network", "network host", "the job reaches what listens on this machine alone"
    else:
        yield "network", f"network {mode}", "the job reaches the containers in it"


def _hosts(hosts: Mapping[str, str], _: TrustContext) -> Iterator[_Asked]:
    for name, address in hosts.items():
        yield "extra_hosts", f"host {name}={address}", "the name leads to that address"


def _devices(devices: Iterable[str], _: TrustContext) -> Iterator[_Asked]:
    for device in devices:
        yield "devices", f"device {device}", "the job uses this device of the engine's machine"


def _gpus(gpus: str | None, _: TrustContext) -> Iterator[_Asked]:
    if gpus:
        yield "gpus", f"gpus {gpus}", "the job uses the GPUs of the engine's machine"


def _runner_pool(name: str | None, around: TrustContext) -> Iterator[_Asked]:
    pool = around.pools.get(name or "")
    if pool is not None and pool.elsewhere:
        gives = f"the job runs in {pool.target}, with the rights that this pool of yours gives"
        yield "runner_pool", f"runner_pool {name}", gives
    elif pool is not None and not pool.in_container:
        yield "runner_pool", f"runner_pool {name}", "the job runs on this machine, as you, without isolation"


def _secret(reference: str, around: TrustContext) -> Iterator[_Asked]:
    scheme, _, rest = reference.partition("://")
    if not around.is_reference(reference):
        return
    if scheme == "env":
        yield "secret", reference, f"the job gets the variable {rest}, of your environment or of --secret-file"
    elif scheme != "file":
        yield "secret", reference, "the job gets this value of your secrets"
    elif (elsewhere := _elsewhere(rest, around)) is not None:
        subject = reference if elsewhere == rest else f"{reference} (resolves to {elsewhere})"
        yield "secret", subject, "the job gets the content of this file of yours"


def _elsewhere(path: str, around: TrustContext) -> str | None:
    """Return the real path of a file outside the snapshot (outside the repository, in `.git`, or ignored); None for one
    inside.
    """
    home = f"{around.home or ''}{path[1:]}"
    written = home if path.startswith("~") else os.path.join(around.root, path)  # noqa: PTH118  may be absolute
    real, root = Path(os.path.realpath(written)), Path(os.path.realpath(around.root))
    around.judged[f"file://{path}"] = str(real)
    inside = real.relative_to(root) if real.is_relative_to(root) else None
    if inside is not None and ".git" not in map(str.lower, inside.parts) and not around.is_ignored(inside):
        return None
    return path if str(real) == os.path.normpath(written) else str(real)


ASKS: Mapping[tuple[type, str], Callable[[Any, TrustContext], Iterator[_Asked]]] = {
    (model.Job, "privileged"): _privileged,
    (model.Job, "docker_socket"): _engine_socket,
    (model.Job, "runner_pool"): _runner_pool,
    (model.Network, "mode"): _network,
    (model.Network, "extra_hosts"): _hosts,
    (model.Resources, "devices"): _devices,
    (model.Resources, "gpus"): _gpus,
    (model.Secret, "ref"): _secret,
}


def requests_of(
    jobs: Iterable[model.Job], around: TrustContext, position_of: PositionOf | None = None
) -> tuple[PermissionRequest, ...]:
    """Return the distinct requests of these jobs; copies of a matrix job share theirs."""
    found: dict[tuple[str, str, str], PermissionRequest] = {}
    for job in jobs:
        for path, (kind, subject, gives) in _asked(job, (), around):
            if (kind, job.name, subject) not in found:
                position = position_of(job.name, path) if position_of is not None else ""
                request = PermissionRequest(kind=kind, subject=subject, gives=gives, job=job.name, position=position)
                found[kind, job.name, subject] = request
    return tuple(found.values())


def _asked(
    value: Struct, path: tuple[str | int, ...], around: TrustContext
) -> Iterator[tuple[tuple[str | int, ...], _Asked]]:
    """Collect the requests of all fields below a job."""
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
