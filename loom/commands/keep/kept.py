"""The kept containers of a state directory: which are there, and how they are removed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from typing import Any

from loom.commands.inside import saved, session
from loom.commands.keep.retention import LeftContainer, kept_facts
from loom.commands.project import Here
from loom.errors import EngineUnavailable, LoomError, RequestError
from loom.plan.model import CONTAINERS, Job
from loom.providers import locks as holds
from loom.providers.locks import holders
from loom.record.store import RunEntry, Store
from loom.runner import previous_run as past


def kept(here: Here, unknown: dict[str, str]) -> list[LeftContainer]:
    """Return the kept containers that are there, the newest first.

    `unknown` gets the runs that kept one where the provider does not answer now, with what it said.
    """
    found: dict[str, LeftContainer] = {}
    silent: dict[str, str] = {}
    for entry, job_id, fact in _recorded(here.store):
        container_id = str(fact["container_id"])
        if container_id not in found and _is_there(here, entry, job_id, silent, unknown):
            found[container_id] = LeftContainer(
                name=str(fact.get("container_name") or ""),
                repo_root=str(entry.identity.get("repo_root")),
                run_ids=[entry.run_id],
                made_at=int(entry.run_id),
                bytes=int(fact.get("bytes") or 0),
                job_id=job_id,
                container_id=container_id,
                until=datetime.fromisoformat(str(fact["expires_at"])),
                used_by=holders(here.store.lock_of_kept(container_id)),
            )
    return list(found.values())


def _recorded(store: Store) -> Iterator[tuple[RunEntry, str, dict[str, Any]]]:
    """(run, job, fact) of what runs kept, the newest run first."""
    for entry in store.entries():
        for job_id, fact in kept_facts(entry):
            if fact.get("container_id"):
                yield entry, job_id, fact


def _is_there(here: Here, entry: RunEntry, job_id: str, silent: dict[str, str], unknown: dict[str, str]) -> bool:
    """Ask the job's provider, unless it is `silent` by now."""
    try:
        job = past.read(entry).job(job_id)
    except LoomError:  # an older or damaged record: what it kept ends by its own deadline
        return False
    provider = job.job.provider
    if why := silent.get(provider):
        unknown[entry.run_id] = why
        return False
    try:
        found = session.find_kept(here, job)
    except LoomError as error:
        unknown[entry.run_id] = error.message
        if isinstance(error, EngineUnavailable | RequestError):
            silent[provider] = error.message
        return False
    return found is not None and found.kept_id == job.kept_id


def remove_places(here: Here, entry: RunEntry, silent: dict[str, str], *, in_engine: bool) -> list[str]:
    """Remove what a run has with each provider, running or kept; return the problems.

    `silent` gets the providers that do not answer, with what they said; none of them is asked twice.
    """
    by_provider: dict[str, list[Job]] = {}
    try:
        for job in past.read(entry).planned.plan.jobs:
            by_provider.setdefault(job.provider, []).append(job)
    except LoomError:  # an older or damaged record, or one that ended before it had a plan
        by_provider[CONTAINERS] = []
    problems: list[str] = []
    for name, jobs in by_provider.items():
        if name == CONTAINERS and not in_engine:
            continue
        if name not in silent:
            try:
                problems += here.provider_named(name).remove_run(entry.run_id, jobs)
                continue
            except LoomError as error:
                silent[name] = error.message
        # What else the engine of this machine has of a run that is over goes by its labels, with or without a record.
        if name != CONTAINERS or keeps_here(entry) or (jobs and entry.receipt is None):
            problems.append(f"its sessions on {name} are left: {silent[name]}")
    return problems


@contextmanager
def held_alone(store: Store, entry: RunEntry) -> Iterator[None]:
    """Keep everybody out of the run's kept sessions, and forget their locks if its record goes. RequestError when one is
    in use.
    """
    ids = dict.fromkeys(str(fact["container_id"]) for _, fact in kept_facts(entry) if fact.get("container_id"))
    locks = list(map(store.lock_of_kept, ids))
    with ExitStack() as stack:
        for lock in locks:
            what = f"a kept container of run {entry.run_id}"
            stack.enter_context(holds.held(lock, what, f"loom clean {entry.run_id}", alone=True))
        yield
        if not entry.paths.root.exists():
            for lock in locks:
                lock.unlink(missing_ok=True)


def keeps_here(entry: RunEntry) -> bool:
    """Return whether a container of this machine's engine was kept of the run: a pod's id is `namespace/name`."""
    ids = (str(fact.get("container_id") or "/") for _, fact in kept_facts(entry))
    return any("/" not in container_id for container_id in ids)


def remove(here: Here, one: LeftContainer) -> list[str]:
    """Save the changes in the job's files, then remove its container; return the problems."""
    try:
        job = past.read(here.store.entry(one.run_ids[-1])).job(one.job_id)
        with session.held(here, job, one.container_id, alone=True):
            saved.save(here, job)
            found = session.find_kept(here, job)
            problems = list(found.remove()) if found is not None else []
            if not problems:
                here.store.lock_of_kept(one.container_id).unlink(missing_ok=True)
    except LoomError as error:
        return [error.message]
    return problems
