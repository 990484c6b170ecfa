"""Run a line of shell as root on a job's workspace: in the job's container, or in a new one after its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

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


def as_root(client: docker.DockerClient, facts: SessionFacts, mount: Mount, marks: Mapping[str, str], line: str) -> int:
    """Return the exit code. `marks`: the labels of the job's container."""
    with translated(f"changing the owner of files for job {marks[labels.JOB]}"):
        try:
            return _in_container(client, facts.container_id, line)
        except Exception as error:
            # The engine's error, or its conversion: the container has ended.
            if not {getattr(one, "status_code", None) for one in (error, error.__cause__)} & {404, 409}:
                raise
        return _beside(client, facts, mount, marks, line)


def _in_container(client: docker.DockerClient, container_id: str, line: str) -> int:
    api: Any = client.api
    made = api.exec_create(container_id, ["sh", "-c", line], user="0:0", workdir="/")
    command = Hijacked.of_exec(client, made["Id"])
    try:
        if not command.ends_within(LONG_S):
            raise ProviderError(f"the owner of files was not changed in {LONG_S} s")
    finally:
        command.close()
    return int(api.exec_inspect(made["Id"])["ExitCode"] or 0)


def _beside(client: docker.DockerClient, facts: SessionFacts, mount: Mount, marks: Mapping[str, str], line: str) -> int:
    api: Any = client.api
    config = api.create_container_config(
        image=facts.image_id or facts.image,
        command=None,
        entrypoint=["sh", "-c", line],
        user="0:0",
        working_dir="/",
        labels={**marks, labels.ROLE: "helper"},
        host_config=api.create_host_config(  # use the image's own programs, with minimal rights
            mounts=mount.spec()[:1], network_mode="none", read_only=True, **hardening.JOB
        ),
    )
    helper = api.create_container_from_config(config, f"{facts.container_name}-helper")["Id"]
    try:
        api.start(helper)
        return int(api.wait(helper, timeout=LONG_S)["StatusCode"])
    finally:
        remove_container(client, helper)
