"""Build the tools of a run: providers, images, services, secrets, caches."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import asdict

from loom import providers
from loom.cancel import Cancel
from loom.commands.plan.secret_file import read_secrets
from loom.commands.project import Project, Worktree
from loom.config import Config
from loom.plan.image_lock import LOCK_PATH, load_lock
from loom.plan.model import Job, Secret
from loom.providers.base import SecretValues, Setup
from loom.record.run import Run
from loom.record.run_paths import RunPaths
from loom.record.store import Store
from loom.runner import Gate, JobTools
from loom.runner.tools import RunTools
from loom.storage.bucket import Bucket
from loom.util import clock
from loom.util.paths import run_of_workspace
from loom.util.seen_values import SeenFile
from loom.values import Environ

if TYPE_CHECKING:
    from loom.record.journal import Sink
    from loom.snapshot import Source
    from loom.storage.cache import Cache


def job_tools(project: Project, run: Run, root: Path) -> JobTools:
    """Create the dependencies of the run's jobs. `root`: the directory that its files are relative to."""
    config, environ, jobs = project.config, project.environ, run.plan.jobs
    lock = load_lock(root / LOCK_PATH)
    setup = Setup(environ=environ, config=config, run_id=run.run_id, root=root, lock=lock, isolated=run.isolated)
    seen = RunPaths(root=project.store.runs_dir / run.run_id, run_id=run.run_id).seen
    return JobTools(
        config=config,
        providers={name: providers.make(name, setup) for name in sorted({job.provider for job in jobs})},
        secrets=partial(
            secret_values,
            config=config,
            environ={**environ, **read_secrets(run.request.secret_file)},
            root=root,
            judged=dict(project.judged),
            seen=SeenFile(seen, config.state_dir),
        ),
    )


def run_tools(
    project: Worktree, run: Run, cancel: Cancel, sinks: Sequence[Sink] = (), gate: Gate | None = None
) -> RunTools:
    """Create what it takes to run a run of this checkout."""
    source, config = project.source, project.config
    return RunTools(
        **{**asdict(job_tools(project, run, source.root)), "gate": gate},
        source=source,
        store=project.store,
        clock_ns=clock.steady(),
        cancel=cancel,
        sinks=sinks,
        cache=None if run.request.no_cache else partial(cache_for, config, source),
    )


def cache_for(config: Config, source: Source, snapshot: Mapping[str, Any]) -> Cache:
    """Return the caches for a run of a snapshot, by what its record says of it."""
    from loom.storage.cache import Cache

    return Cache(
        config.cache_dir,
        max_size=config.cache_max_size,
        project=cache_project(config, source.root, source.origin_url),
        clock=time.time,
        protected=_is_protected(config, source, snapshot),
        bucket=Bucket(config.bucket) if config.bucket is not None else None,
    )


def cache_project(config: Config, root: Path, origin: str | None) -> str:
    """Return the identity that the caches of a checkout belong to; a run's workspace counts as the checkout it was taken from."""
    from loom.storage.cache_keys import project_of

    run = Store(config.state_dir).run_in(root)
    checkout = run.identity.get("repo_root") if run is not None else None
    return project_of(origin, Path(checkout) if isinstance(checkout, str) else root)


def _is_protected(config: Config, source: Source, snapshot: Mapping[str, Any]) -> bool:
    """Return whether a snapshot is a protected branch's as committed: anybody's patch may be among changes."""
    from loom.util import globs

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


def secret_values(
    job: Job, *, config: Config, environ: Environ, root: Path, judged: Mapping[str, str], seen: SeenFile
) -> tuple[SecretValues, Sequence[str]]:
    """Resolve the secrets of a job and its services, and note that they were seen; report unavailable optional ones.

    SecretError as in `secrets.resolve`.
    """
    from loom.plan.tracing import check_debug_trace
    from loom.secrets.lookup import resolve as resolve_secrets

    check_debug_trace(job)
    missing: list[str] = []

    def values_of(wanted: Sequence[Secret], whose: str = "") -> Mapping[str, bytes]:
        found = resolve_secrets(wanted, environ=environ, root=root, config=config, judged=judged)
        for secret in wanted:
            if (value := found.values.get(secret.name)) is not None:
                seen.note(secret.name, secret.ref, value)
        missing.extend(f"{whose}{name} is not set: {why.message} ({why.code})" for name, why in found.missing.items())
        return found.values

    own = values_of(job.secrets)
    services = tuple(values_of(service.secrets, f"service {service.name}: ") for service in job.services)
    return SecretValues(own=own, services=services), missing
