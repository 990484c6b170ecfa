"""A red job of a CI server, where it is fetched to, and what of it can't be had here."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from loom.addresses import Address
from loom.analysis.diff import Pair
from loom.commands.project import Project
from loom.commands.project.checkout import origin_of
from loom.commands.servers import JobAddress, RemoteJob, Server
from loom.plan.origin import origin_of as project_origin
from loom.values import Immutable


class Differences(Struct, frozen=True):
    """The facts that are not as they were elsewhere, and notes for people about what can't be had."""

    pairs: list[Pair] = []
    notes: list[str] = []

    def add(self, name: str, there: str | None, here: str | None = None, *, note: str | None = None) -> None:
        self.pairs.append(Pair(name=name, a=there, b=here))
        if note is not None:
            self.note(note)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


class ServerJob(Immutable):
    project: Project
    """The user's checkout, from which it is asked for."""
    server: Server
    job: RemoteJob
    directory: Path
    """The directory of loom's own for what is fetched."""
    differences: Differences

    @property
    def address(self) -> JobAddress:
        return self.server.address

    @property
    def tree(self) -> Path:
        """The checkout of the job's commit."""
        return self.directory / "tree"

    def archive_of(self, job_id: str) -> Path:
        """Return the path for the artifacts of a job of the plan."""
        return self.directory / "artifacts" / job_id / "artifacts.tar.gz"

    def clone_url(self) -> Address:
        """Return the checkout's own origin if it is that project, since git knows how to read it; else the server's address."""
        found, address = origin_of(self.project), self.address
        origin = project_origin(str(found)) if found is not None else None
        if found is not None and origin is not None and origin.path == address.project:
            return found
        return Address(f"{address.server}/{address.project}.git")
