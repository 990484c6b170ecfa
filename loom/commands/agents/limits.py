"""What the person who starts `loom mcp` lets an agent do."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from loom.commands.project import Here
from loom.errors import RequestError
from loom.plan.model import Job
from loom.util.globs import match_name


class Limits(Struct, frozen=True, kw_only=True):
    read_only: bool = False
    jobs: tuple[str, ...] = ()
    """Names or globs of the jobs that may run; empty: all."""
    host: bool = False
    privileged: bool = False
    network: bool = False

    @property
    def settings(self) -> dict[str, object]:
        """The settings of runs, over those of every file and variable."""
        return {
            "keep": "on-failure",
            **({} if self.host else {"container": True}),
            **({} if self.network else {"network": "none"}),
        }

    def permit_acting(self) -> None:
        """RequestError if the agent may only look."""
        if self.read_only:
            raise _refused("this server is read-only", "--read-only")

    def permit(self, jobs: Iterable[Job], here: Here) -> None:
        """RequestError for the first of these jobs that asks for more than is allowed."""
        self.permit_acting()
        for job in jobs:
            names = (job.id, job.name)
            if self.jobs and not any(match_name(pattern, name) for name in names for pattern in self.jobs):
                raise _refused(f"job {job.id} is not one of those that may run: {', '.join(self.jobs)}", "--job")
            isolated = here.provider_named(job.provider).capabilities.isolated
            if not isolated and not self.host:
                raise _refused(f"job {job.id} runs on this machine, outside of a container", "--allow-host")
            if (job.privileged or job.docker_socket or job.resources.devices) and not self.privileged:
                raise _refused(f"job {job.id} asks for more than a plain container", "--allow-privileged")
            if job.network.mode != "none" and isolated and not self.network:
                raise _refused(
                    f"job {job.id} has the network {job.network.mode or 'of its provider'}", "--allow-network"
                )


def _refused(reason: str, option: str) -> RequestError:
    return RequestError(
        reason, hint=f"the person who started `loom mcp` decides this ({option})", code="AGENT_NOT_ALLOWED"
    )
