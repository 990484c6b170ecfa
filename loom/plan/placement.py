"""Decide where a job runs: in the pool that it names, else where `--on` says, else on this machine."""

from __future__ import annotations

from loom.config import Config
from loom.config.pools import Pool, named
from loom.plan.model import HOST, JobSelection
from loom.util.units import meant

THIS_MACHINE = Pool(provider=HOST)


def pool_for(runner_pool: str | None, *, has_image: bool, selection: JobSelection, config: Config) -> Pool:
    """Return the pool of a job. An unknown pool counts as none (see `unknown_pool`), and so does each pool without `pools`."""
    if runner_pool is not None and runner_pool in config.pools:
        return config.pools[runner_pool]
    in_container = has_image or selection.container
    return named(selection.on, config.pools) if in_container else THIS_MACHINE


def unknown_pool(runner_pool: str | None, config: Config) -> str | None:
    """State that the user's configuration has no such pool. One without any pools makes no use of the key."""
    if runner_pool is None or not config.pools or runner_pool in config.pools:
        return None
    return f"your configuration has no pool {runner_pool}; it has {', '.join(config.pools)}{meant(runner_pool, config.pools)}"
