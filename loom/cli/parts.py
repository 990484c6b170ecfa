"""The outside worlds of a run, made from configuration and environment: providers, images, services, secrets."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from loom.cancel import Cancel
from loom.config import Config
from loom.plan import Job, Plan, ProviderName
from loom.results import OnOutput
from loom.runner import Tools

if TYPE_CHECKING:
    import docker

    from loom.cache import Cache
    from loom.images import ImageLock
    from loom.snapshot import Source


class Engine:
    """One connection to the configured engine, made when first asked for."""

    def __init__(self, config: Config, environ: Mapping[str, str]) -> None:
        self.environ = dict(environ)
        if config.engine:
            self.environ["DOCKER_HOST"] = config.engine
        self._lock = threading.Lock()
        self._client: docker.DockerClient | None = None

    def __call__(self) -> docker.DockerClient:
        with self._lock:
            if self._client is None:
                from loom.providers.docker.client import connect

                self._client = connect(self.environ)
            return self._client

    def another(self) -> docker.DockerClient:
        """A connection of its own, for who closes it."""
        from loom.providers.docker.client import connect

        return connect(self.environ)

    def close(self) -> None:
        with self._lock:
            if self._client is not None:
                with suppress(Exception):
                    self._client.close()


def needs_engine(plan: Plan) -> bool:
    return any(job.provider is ProviderName.DOCKER or job.services for job in plan.jobs)


def tools_for(
    plan: Plan, config: Config, environ: Mapping[str, str], root: Path, lock: ImageLock | None, engine: Engine
) -> Tools:
    from loom.providers.host import HostProvider

    host = HostProvider(environ)
    if not needs_engine(plan):
        return Tools(providers={ProviderName.HOST: host}, secrets=_secrets(config, environ, root))
    from loom.providers.docker.images import Images
    from loom.providers.docker.provider import DockerProvider

    images = Images(engine.another, environ=engine.environ, lock=lock, frozen=config.frozen)

    @contextmanager
    def services(
        job: Job, *, workspace: Path, on_output: OnOutput, cancel: Cancel, on_died: Callable[[str, str], None]
    ) -> Iterator[str]:
        from loom.providers.docker import labels
        from loom.providers.docker.services import services as open_services

        run_id = str(workspace.name).removeprefix("loom-run-local-").partition("-")[0]
        marks = labels.labels(run_id=run_id, job_id=job.id, workspace=workspace, pid=os.getpid(), role="service")
        with open_services(
            engine.another,
            job.services,
            run_id=run_id,
            job_id=job.id,
            images=images,
            workspace=workspace,
            labels=marks,
            on_output=on_output,
            cancel=cancel,
            on_died=on_died,
        ) as network:
            yield network.network_id

    return Tools(
        providers={ProviderName.HOST: host, ProviderName.DOCKER: DockerProvider(engine, pid=os.getpid())},
        images=images,
        services=services,
        secrets=_secrets(config, environ, root),
    )


def cache_for(config: Config, source: Source) -> Cache:
    from loom.cache import Cache, project_of

    project = project_of(source.origin_url, source.root)
    return Cache(config.cache_dir, max_size=config.cache_max_size, project=project, clock=time.time)


def _secrets(
    config: Config, environ: Mapping[str, str], root: Path
) -> Callable[[Job], tuple[Mapping[str, bytes], Sequence[str]]]:
    def resolve(job: Job) -> tuple[Mapping[str, bytes], Sequence[str]]:
        from loom.secrets import check_debug_trace
        from loom.secrets import resolve as resolve_secrets

        check_debug_trace(job)
        found = resolve_secrets(job.secrets, environ=environ, root=root, config=config)
        return found.values, [f"{missing.name} is not set: {missing.reason}" for missing in found.missing]

    return resolve
