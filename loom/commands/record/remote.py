"""Find a failed job, its server and its log by the address of its page."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from loom.analysis.diagnosis import Diagnosis
from loom.analysis.server_log import ServerLog, diagnosis_of_log, read_log
from loom.commands.project import Here, checkout
from loom.commands.servers import JobAddress, RemoteJob, Server, ServerRefused, address_of, server_of
from loom.commands.servers.tokens import token_for
from loom.plan.origin import ProjectOrigin, origin_of


def remote_job(project: Here, url: str) -> tuple[Server, RemoteJob]:
    """Return the job that an address means; of a pipeline or run the first that failed."""
    address = address_of(url)
    server = connected(project, address)
    job = server.job(address)
    if not job.ended:
        raise ServerRefused(f"{job.url}: the job has not ended: {job.status}", hint="try again when it has")
    return server, job


def connected(project: Here, address: JobAddress) -> Server:
    home = home_of(project)
    token = token_for(address, project.environ, project.config, project.root, origin=home.server if home else "")
    return server_of(address, token)


def home_of(project: Here) -> ProjectOrigin | None:
    """Return the project's server and path by the address of `origin`; None without one."""
    found = checkout.origin_of(project.root, project.environ)
    return None if found is None else origin_of(str(found))


@contextmanager
def downloaded(server: Server, job: RemoteJob) -> Iterator[BinaryIO]:
    """Yield the log as a file without a name."""
    with tempfile.TemporaryFile() as file:
        server.log(job, file)
        if not file.tell():
            raise ServerRefused(f"{job.url}: its log is empty", hint="it was erased, or the job never began")
        yield file


def read(file: BinaryIO) -> ServerLog:
    file.seek(0)
    return read_log(iter(lambda: file.read(1 << 18), b""))


def diagnosis_of_remote(project: Here, url: str) -> Diagnosis:
    """Diagnose the job of an address by its log alone."""
    server, job = remote_job(project, url)
    with downloaded(server, job) as file:
        log = read(file)
    return diagnosis_of_log(log, job.url, job=job.name, root=project.root, again=f"loom reproduce {job.url}")
