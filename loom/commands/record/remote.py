"""From the address of a red job's page to the job, its server and its log."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from msgspec import Struct

from loom.analysis.diagnosis import Diagnosis
from loom.analysis.server_log import ServerLog, diagnosis_of_log, read_log
from loom.commands.project import Here
from loom.commands.run import checkout
from loom.commands.servers import JobAddress, RemoteJob, Server, address_of, server_of
from loom.commands.servers.tokens import token_for
from loom.plan.origin import origin_of

_BLOCK = 1 << 18


class Remote(Struct, frozen=True, kw_only=True):
    address: JobAddress
    server: Server
    job: RemoteJob


def remote_job(place: Here, url: str) -> Remote:
    """Return the job that an address means; of a pipeline or run the first that failed."""
    address = address_of(url)
    server = connected(place, address)
    return Remote(address=address, server=server, job=server.job(address))


def connected(place: Here, address: JobAddress) -> Server:
    found = checkout.origin_of(place.root, place.environ)
    home = origin_of(str(found)) if found is not None else None
    token = token_for(address, place.environ, place.config, place.root, origin=home.server if home else "")
    return server_of(address, token)


@contextmanager
def downloaded(remote: Remote) -> Iterator[BinaryIO]:
    """Give the log as a file without a name."""
    with tempfile.TemporaryFile() as file:
        remote.server.log(remote.job, file)
        yield file


def read(file: BinaryIO) -> ServerLog:
    file.seek(0)
    return read_log(iter(lambda: file.read(_BLOCK), b""))


def diagnosis_of_remote(place: Here, url: str) -> Diagnosis:
    """Diagnose the job of an address by its log alone."""
    remote = remote_job(place, url)
    with downloaded(remote) as file:
        log = read(file)
    return diagnosis_of_log(
        log, remote.job.url, job=remote.job.name, root=place.root, again=f"loom reproduce {remote.job.url}"
    )
