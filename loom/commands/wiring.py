"""The outside worlds of a run, made from configuration and environment: providers, images, services, secrets."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loom.cancel import Cancel
from loom.config import Config
from loom.errors import EngineUnavailable
from loom.plan.model import Job, Plan, ProviderName, Secret
from loom.providers.base import Provider, SecretValues, Session
from loom.record.store import Store
from loom.runner import Tools
from loom.status import OnOutput

if TYPE_CHECKING:
    import docker

    from loom.plan.image_lock import ImageLock
    from loom.providers.docker.services import ServiceNetwork
    from loom.snapshot import Source
    from loom.storage.cache import Cache


class Engine:
    """One connection to the configured engine, made when first asked for."""

    def __init__(self, config: Config, environ: Mapping[str, str]) -> None:
        self.environ = dict(environ)
        if config.engine:
            self.environ["DOCKER_HOST"] = config.engine
        self._lock = threading.Lock()
        self._client: docker.DockerClient | None = None
        self._tidying: threading.Thread | None = None
        self.problems: list[str] = []

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

    def connect(self) -> None:
        """EngineUnavailable when none answers."""
        self()

    def described(self) -> str:
        """Which engine it is, and where; EngineUnavailable when none answers."""
        from loom.providers.docker.capabilities import Traits
        from loom.providers.docker.endpoint import endpoint_of

        traits = Traits(self())
        return f"{traits.name} {traits.version} at {endpoint_of(self.environ)}"

    def answers(self) -> None:
        """EngineUnavailable when it does not. What dead looms left in it is removed meanwhile, out of the run's way."""
        client = self()
        self._tidying = threading.Thread(target=self._tidy, args=(client,), name="tidy", daemon=True)
        self._tidying.start()

    def _tidy(self, client: docker.DockerClient) -> None:
        from loom.providers.docker.cleanup import tidied

        self.problems = tidied(client)

    def close(self, patience_s: float = 10.0) -> list[str]:
        """End the connection; what could not be tidied, as lines of text."""
        if self._tidying is not None:
            self._tidying.join(patience_s)
        with self._lock:
            if self._client is not None:
                with suppress(Exception):
                    self._client.close()
        return self.problems


def needs_engine(plan: Plan) -> bool:
    return any(job.provider is ProviderName.DOCKER or job.services for job in plan.jobs)


def preflight(plan: Plan, engine: Engine, config: Config) -> Callable[[], None] | None:
    """What has to be true of the engine before anything starts; None when the plan does without one."""
    images = [job.image for job in plan.jobs if job.image is not None]
    if images:
        optional = all(image.build is None and image.name == config.default_image for image in images)
        # The provider removes what dead looms left, once its first container runs.
        return partial(_connect_for_default_image, engine) if optional else engine.connect
    return engine.answers if needs_engine(plan) else None


def _connect_for_default_image(engine: Engine) -> None:
    """For jobs that name no image: where no engine answers, they could run without one."""
    try:
        engine.connect()
    except EngineUnavailable as error:
        way = "or run jobs that name no image on this machine, without isolation: loom run --no-container"
        raise EngineUnavailable(error.message, hint=f"{error.hint}\n{way}" if error.hint else way) from error


def tools_for(
    plan: Plan,
    config: Config,
    source: Source,
    lock: ImageLock | None,
    engine: Engine,
    *,
    run_id: str,
    isolated: bool = False,
) -> Tools:
    """`isolated`: the network of a job with services leads nowhere else."""
    environ, root = engine.environ, source.root
    providers: dict[ProviderName, Provider] = {}
    if any(job.provider is ProviderName.HOST for job in plan.jobs):
        from loom.providers.host import HostProvider

        providers[ProviderName.HOST] = HostProvider(environ)
    if not needs_engine(plan):
        return Tools(providers=providers, secrets=_secrets(config, environ, root))
    from loom.providers.docker.images import Images
    from loom.providers.docker.provider import DockerProvider

    images = Images(engine.another, environ=engine.environ, lock=lock, frozen=config.frozen, shared=engine)

    @contextmanager
    def services(
        job: Job,
        *,
        workspace: Path,
        on_output: OnOutput,
        cancel: Cancel,
        on_died: Callable[[str, str], None],
        secrets: SecretValues,
    ) -> Iterator[ServiceNetwork]:
        from loom.providers.docker import labels
        from loom.providers.docker.services import services as open_services

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
            isolated=isolated or job.network.mode == "none",
            hardened=job.hardened,
            published=publishes_services(job, engine),
            secrets=secrets,
        ) as network:
            yield network

    def checkpoint(job: Job, session: Session, *, expires_at: float) -> Mapping[str, Any]:
        from loom.providers.docker import checkpoint as checkpoints
        from loom.runner.previous_run import checkpoint_archive

        if job.provider is not ProviderName.DOCKER:
            return {}
        archive = checkpoint_archive(Store(config.state_dir).runs_dir / run_id, job.id)
        return checkpoints.make(engine(), session, archive, run_id=run_id, job_id=job.id, expires_at=expires_at)

    providers[ProviderName.DOCKER] = DockerProvider(engine, pid=os.getpid(), log_driver=config.log_driver)
    return Tools(
        providers=providers,
        images=images,
        services=services,
        secrets=_secrets(config, environ, root),
        checkpoint=checkpoint,
    )


def publishes_services(job: Job, engine: Engine) -> bool:
    """Whether the services' ports have to be had from this machine: the job runs on it. ServiceError where they can't be."""
    if job.provider is not ProviderName.HOST:
        return False
    from loom.errors import ServiceError
    from loom.providers.docker.endpoint import endpoint_of

    endpoint = endpoint_of(engine.environ)
    if not endpoint.local:
        raise ServiceError(
            f"job {job.id} runs on this machine, and its services would run on another one ({endpoint})",
            hint="give the job an `image:` (or run with --container), or use an engine of this machine",
        )
    return True


def cache_for(config: Config, source: Source, snapshot: Mapping[str, Any]) -> Cache:
    """The caches for a run of a snapshot, by what its record says of it."""
    from loom.storage.cache import Cache

    return Cache(
        config.cache_dir,
        max_size=config.cache_max_size,
        project=cache_project(config, source.root, source.origin_url),
        clock=time.time,
        protected=_is_protected(config, source, snapshot),
    )


def cache_project(config: Config, root: Path, origin: str | None) -> str:
    """The identity that the caches of a checkout belong to; a run's workspace counts as the checkout it was taken from."""
    from loom.record.store import Store
    from loom.storage.cache import project_of

    run = Store(config.state_dir).run_in(root)
    checkout = run.identity.get("repo_root") if run is not None else None
    return project_of(origin, Path(checkout) if isinstance(checkout, str) else root)


def _is_protected(config: Config, source: Source, snapshot: Mapping[str, Any]) -> bool:
    """Whether a snapshot is one of a protected branch, as it was committed: anybody's patch may be among changes."""
    from loom.util import globs
    from loom.util.paths import run_of_workspace

    if run_of_workspace(source.root.name) is not None:  # where a job may have moved the branch
        return False
    branch = snapshot.get("branch")
    if not isinstance(branch, str) or any(part["changed"] for part in (snapshot, *snapshot["submodules"])):
        return False
    named = config.protected_branches
    if named is None:
        remote = "refs/remotes/origin/"
        heads = [target.removeprefix(remote) for name, _, target in source.refs if name == f"{remote}HEAD"]
        return branch in ("main", "master", *heads)
    return any(globs.compile(pattern).fullmatch(branch) for pattern in named)


def _secrets(
    config: Config, environ: Mapping[str, str], root: Path
) -> Callable[[Job], tuple[SecretValues, Sequence[str]]]:
    def resolve(job: Job) -> tuple[SecretValues, Sequence[str]]:
        return secret_values(job, config=config, environ=environ, root=root)

    return resolve


def secret_values(
    job: Job, *, config: Config, environ: Mapping[str, str], root: Path
) -> tuple[SecretValues, Sequence[str]]:
    """What a job and its services get, and what is missing of what need not be there; SecretError as `secrets.resolve`."""
    from loom.secrets import check_debug_trace
    from loom.secrets import resolve as resolve_secrets

    check_debug_trace(job)
    missing: list[str] = []

    def values_of(wanted: Sequence[Secret], whose: str = "") -> Mapping[str, bytes]:
        found = resolve_secrets(wanted, environ=environ, root=root, config=config)
        missing.extend(f"{whose}{one.name} is not set: {one.reason}" for one in found.missing)
        return found.values

    own = values_of(job.secrets)
    services = tuple(values_of(service.secrets, f"service {service.name}: ") for service in job.services)
    return SecretValues(own=own, services=services), missing
