"""Run a line of shell as root on a job's workspace: in the job's container, or in a new one after its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from loom.errors import ProviderError
from loom.providers import labels
from loom.providers.base import SessionFacts
from loom.providers.docker.container import hardening
from loom.providers.docker.container.cleanup import remove_container
from loom.providers.docker.container.mounts import Mount
from loom.providers.docker.engine.client import LONG_S
from loom.providers.docker.engine.errors import translated
from loom.providers.docker.session.attach import Hijacked

if TYPE_CHECKING:
    import docker


class RootShell(Struct, frozen=True, kw_only=True):
    client: docker.DockerClient
    facts: SessionFacts
    mount: Mount
    job_id: str
    labels: Mapping[str, str]
    """The container's."""

    def __call__(self, line: str) -> int:
        """Return the exit code."""
        with translated(f"changing the owner of files for job {self.job_id}"):
            try:
                return self._in_container(line)
            except Exception as error:
                # The engine's error, or its conversion.
                if not {getattr(one, "status_code", None) for one in (error, error.__cause__)} & {404, 409}:
                    raise
            return self._beside(line)

    def _in_container(self, line: str) -> int:
        api: Any = self.client.api
        made = api.exec_create(self.facts.container_id, ["sh", "-c", line], user="0:0", workdir="/")
        command = Hijacked.of_exec(self.client, made["Id"])
        try:
            ended = command.ends_within(LONG_S)
        finally:
            command.close()
        if not ended:
            raise ProviderError(f"the owner of files of job {self.job_id} was not changed in {LONG_S} s")
        return int(api.exec_inspect(made["Id"])["ExitCode"] or 0)

    def _beside(self, line: str) -> int:
        api: Any = self.client.api
        config = api.create_container_config(
            image=self.facts.image_id or self.facts.image,
            command=None,
            entrypoint=["sh", "-c", line],
            user="0:0",
            working_dir="/",
            labels={**self.labels, labels.ROLE: "helper"},
            host_config=api.create_host_config(  # use the image's own programs, with minimal rights
                mounts=self.mount.spec()[:1], network_mode="none", read_only=True, **hardening.JOB
            ),
        )
        helper = api.create_container_from_config(config, f"{self.facts.container_name}-helper")["Id"]
        try:
            api.start(helper)
            return int(api.wait(helper, timeout=LONG_S)["StatusCode"])
        finally:
            remove_container(self.client, helper)
