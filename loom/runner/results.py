"""The services of a run that its actions talk to: started when the first action runs, for each job with a token of its own."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loom.action_services.requests import Client, ServiceStore
from loom.errors import SecretError
from loom.plan.model import Job
from loom.record.events import PhaseCode
from loom.runner.attempt import Attempt
from loom.storage.cache import Cache

if TYPE_CHECKING:
    from loom.action_services.server import ResultsServer

NO_WAY = (
    "this job has no network that leads to loom: its actions have no cache and no artifacts (`network: bridge` is one)"
)


class Results:
    """Thread-safe."""

    def __init__(
        self,
        *,
        jobs: Iterable[Job],
        artifacts_of: Callable[[str], Path],
        record: Path,
        cache: Cache | None,
        most_bytes: int,
    ) -> None:
        """`artifacts_of`: as `ServiceStore.folder_of`."""
        self._pipelines = {job.id: _pipeline_of(job) for job in jobs}
        self._store = ServiceStore(
            cache=cache, jobs_of=self._jobs_of, folder_of=artifacts_of, record=record, most_bytes=most_bytes
        )
        self._lock = threading.Lock()
        self._server: ResultsServer | None = None
        self._given: dict[int, Mapping[str, str]] = {}

    def environment(
        self, attempt: Attempt, host_address: Callable[[], str | None], secrets: Mapping[str, bytes]
    ) -> Mapping[str, str]:
        """Return the variables by which the actions of a job find the services; without a way to this machine, none.

        `host_address`: as `Provider.host_address`, of the job's session.
        """
        with self._lock:
            if id(attempt) not in self._given:
                for name, value in secrets.items():
                    with suppress(SecretError):  # too short to be one
                        self._store.masker.add(name, value)
                self._given[id(attempt)] = self._admitted(attempt, host_address)
            return self._given[id(attempt)]

    def _admitted(self, attempt: Attempt, host_address: Callable[[], str | None]) -> Mapping[str, str]:
        from loom.action_services import server  # late: a heavy import for few runs

        try:
            way = host_address()
            if way is None:
                attempt.warn(NO_WAY, PhaseCode.JOB_EXECUTION)
                return {}
            if self._server is None:
                self._server = server.ResultsServer(self._store)
            url = self._server.listen(way)
        except OSError as error:
            attempt.warn(f"{NO_WAY} ({error.strerror})", PhaseCode.JOB_EXECUTION)
            return {}
        job = attempt.job
        pipeline = self._pipelines.setdefault(job.id, _pipeline_of(job))  # a matrix may be of an earlier job
        client = Client(
            job_id=attempt.job.id,
            pipeline=pipeline,
            folder=self._store.folder_of(attempt.job.id),
            url=url,
            read_only=_is_strangers(job),
            tell=lambda name, data: attempt.fact(name, data, PhaseCode.JOB_EXECUTION),
        )
        token = self._server.admit(client)
        return {
            "ACTIONS_RESULTS_URL": f"{url}/",
            "ACTIONS_RUNTIME_URL": f"{url}/",
            "ACTIONS_RUNTIME_TOKEN": token,
            "ACTIONS_CACHE_SERVICE_V2": "true",
        }

    def ended(self, attempt: Attempt) -> None:
        """Revoke the job's token."""
        with self._lock:
            given = self._given.pop(id(attempt), None)
        if given and self._server is not None:
            self._server.dismiss(given["ACTIONS_RUNTIME_TOKEN"])

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            shutil.rmtree(self._store.uploads, ignore_errors=True)

    def _jobs_of(self, pipeline: str) -> Iterable[str]:
        return [job_id for job_id, own in list(self._pipelines.items()) if own == pipeline]


def take_over(before: Path, folder: Path) -> None:
    """Give a job that resumes the artifacts that its earlier steps uploaded in another run."""
    for archive in before.glob("*"):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / archive.name).exists():
            shutil.copyfile(archive, folder / archive.name)


def _pipeline_of(job: Job) -> str:
    """Return the workflow that a job is of: a run may be one of several, and each has its own artifacts."""
    github = job.github or {}
    return str(github.get("workflow_ref") or github.get("workflow") or "workflow")


def _is_strangers(job: Job) -> bool:
    """Return whether the event is a pull request from another repository."""
    event: Any = (job.github or {}).get("event")
    pull = event.get("pull_request") if isinstance(event, Mapping) else None
    if not isinstance(pull, Mapping):
        return False
    return bool(_repository(pull.get("head")) != _repository(pull.get("base")))


def _repository(side: Any) -> Any:
    repository = side.get("repo") if isinstance(side, Mapping) else None
    return repository.get("full_name") if isinstance(repository, Mapping) else None
