"""What passes from job to job and from run to run: artifacts, the test reports among them, and caches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec.structs import asdict

from loom.cancel import Cancel
from loom.errors import InfrastructureError
from loom.plan.model import Job, Plan, wanted
from loom.providers.base import Session
from loom.record.events import PhaseCode, Section
from loom.runner.attempt import Attempt
from loom.runner.session import Place
from loom.secrets.masking import Masker
from loom.status import OnOutput, Status
from loom.storage import artifacts
from loom.storage.cache import Cache
from loom.storage.cache_keys import key_of
from loom.storage.workspace import view_of
from loom.util.bounded import bounded, listed

MAX_CHANGES = 1000
"""How many changed paths a job's manifest names."""
MAX_LEFT_OUT = 5
"""How many files that could not be kept are warned of one by one."""
MAX_OVERLAPS = 5
"""How many paths that several jobs left differently are warned of one by one."""
MAX_NAMED = 20
"""How many missing paths or failing tests are named one by one."""


class Handover:
    """Artifacts of one run's jobs. Thread-safe: each job has places of its own, and reads only those of ended jobs."""

    def __init__(
        self,
        plan: Plan,
        *,
        archive_of: Callable[[str], Path],
        logs: Path,
        masker: Masker,
        cache: Cache | None = None,
        missing_here: frozenset[str] = frozenset(),
        cancel: Cancel | None = None,
    ) -> None:
        """`missing_here`: jobs that left their products in another workspace than the run's."""
        self._missing_here = missing_here
        self._cancel = cancel or Cancel()
        self._plan = plan
        self._archive_of = archive_of
        self._logs = logs
        self._masker = masker
        self._cache = cache
        self._checksums: dict[str, str] = {}
        self._indexes: dict[str, Sequence[artifacts.ArtifactFile]] = {}
        self._cache_keys: dict[str, list[str]] = {}

    def sources(self, job: Job) -> list[str]:
        """The jobs whose artifacts `job` gets, in plan order: what it needs, or without `needs` all stages before."""
        if job.needs is not None:
            named = {need.job for need in job.needs if need.artifacts}
        else:
            before = self._plan.stages[: self._plan.stages.index(job.stage)]
            named = {other.id for other in self._plan.jobs if other.stage in before}
        return [other.id for other in self._plan.jobs if other.id in named and self._archive_of(other.id).exists()]

    def restore(self, job: Job, session: Session, shared_workspace: Path, on_output: OnOutput) -> list[str]:
        """Put earlier jobs' artifacts into this job's view. A workspace that all jobs share has them already.

        They come in plan order, a file over a file. One line for each path that several jobs left differently.
        """
        shared = session.workspace_view() == shared_workspace
        view = view_of(session, self._not_if_canceled)
        sources = self.sources(job)
        for source in sources:
            if shared and source not in self._missing_here:
                continue
            restored = artifacts.restore(self._archive_of(source), view, sha256=self._checksums.get(source))
            on_output("stdout", f"{source}: {restored.files} files, {restored.bytes} bytes\n".encode())
        found = artifacts.overlaps({source: self._index_of(source) for source in sources}) if len(sources) > 1 else {}
        return [
            f"{path} is left differently by {', '.join(jobs)}; "
            + (
                "they share a workspace: the last one to write it counts"
                if shared
                else f"here it is that of {jobs[-1]}, the last in the plan"
            )
            for path, jobs in found.items()
        ]

    def _index_of(self, source: str) -> Sequence[artifacts.ArtifactFile]:
        if source not in self._indexes:  # two jobs at once may both read it: nothing is lost by that
            self._indexes[source] = artifacts.index_of(self._archive_of(source))
        return self._indexes[source]

    def collect(self, job: Job, session: Session, status: Status, on_output: OnOutput) -> Mapping[str, Any] | None:
        """Keep what the job leaves; what the record says of it, or None when there is nothing to keep."""
        spec = job.artifacts
        if spec is None or not spec.paths or not wanted(spec.when, status):
            return None
        kept = artifacts.collect(
            spec,
            view_of(session, self._not_if_twice),
            archive=self._archive_of(job.id),
            on_output=on_output,
            masker=self._masker,
        )
        self._checksums[job.id] = kept.sha256
        there = self._archive_of(job.id).exists()
        return {
            "name": spec.name,
            "archive_path": str(self._archive_of(job.id).relative_to(self._logs)) if there else None,
            "sha256": kept.sha256,
            "files": kept.files,
            "bytes": kept.bytes,
            "missing": list(kept.missing),
            **bounded("skipped", [{"path": item.path, "reason": item.reason} for item in kept.skipped], MAX_NAMED),
            "expire_in_s": spec.expire_in_s,
        }

    def reports(self, job: Job, session: Session, project_dir: str) -> artifacts.TestReports | None:
        """What the job's JUnit reports say, whatever became of the job."""
        if job.artifacts is None or not job.artifacts.junit:
            return None
        return artifacts.read_reports(
            job.artifacts.junit, view_of(session, self._not_if_twice), project_dir=project_dir
        )

    # -- interrupts: what is for steps that will not run any more ends with the first, what a job leaves with the second ---

    def _not_if_canceled(self) -> None:
        if self._cancel.requested:
            raise InfrastructureError("interrupted", code="CANCELED")

    def _not_if_twice(self) -> None:
        if self._cancel.now:
            raise InfrastructureError("interrupted", code="CANCELED")

    # -- caches ---------------------------------------------------------------------------------------------------

    def caches(self, job: Job) -> bool:
        return self._cache is not None and bool(job.cache)

    def settle_caches(self, job: Job, workspace: Path, resumed: Sequence[str] | None) -> Sequence[str]:
        """The keys of a job's caches, before it changes the files that they hash. A `resumed` job has changed them: its
        keys are those of the run that it goes on from."""
        keys = [key_of(spec, workspace) for spec in job.cache] if resumed is None else list(resumed)
        self._cache_keys[job.id] = keys
        return keys

    def restore_caches(self, job: Job, session: Session, on_output: OnOutput) -> Iterator[Mapping[str, Any]]:
        """Unpack what fits; one fact per cache entry."""
        assert self._cache is not None
        for spec, key in zip(job.cache, self._cache_keys[job.id], strict=True):
            if "pull" in spec.policy:
                found = self._cache.restore(spec, key, view_of(session, self._not_if_canceled), on_output)
                yield {"action": "restore", "name": spec.name, "wanted": key, **asdict(found)}

    def save_caches(
        self, job: Job, session: Session, status: Status, on_output: OnOutput
    ) -> Iterator[Mapping[str, Any]]:
        assert self._cache is not None
        for spec, key in zip(job.cache, self._cache_keys.get(job.id, ()), strict=False):
            if "push" in spec.policy and wanted(spec.when, status):
                view = view_of(session, self._not_if_twice)
                saved = self._cache.save(spec, key, view, on_output, masker=self._masker)
                fact = asdict(saved) | bounded("skipped", [asdict(item) for item in saved.skipped], MAX_NAMED)
                yield {"action": "save", "name": spec.name, **fact}


def report_facts(reports: artifacts.TestReports) -> tuple[Mapping[str, Any], Iterable[Mapping[str, Any]]]:
    """The totals, and the first failing tests one by one, as the record keeps them."""
    totals = {name: getattr(reports, name) for name in ("reports", "tests", "failures", "errors", "skipped")}
    problems = [*reports.problems, *(f"{pattern}: no such file" for pattern in reports.missing)]
    totals |= bounded("problems", problems, MAX_NAMED)
    return totals, [asdict(test) for test in reports.failing[:MAX_NAMED]]


class Products:
    """Restores and keeps what one job gets and leaves, each in a phase of the record."""

    def __init__(self, handover: Handover, workspace: Path, cancel: Cancel) -> None:
        """`workspace`: the run's, which jobs may share. `cancel`: the run's."""
        self._handover = handover
        self._workspace = workspace
        self._cancel = cancel

    def restore(self, attempt: Attempt, place: Place) -> None:
        """Before the first step: caches, then what earlier jobs left. A job that goes on somewhere has them already."""
        job, handover = attempt.job, self._handover
        caches = handover.caches(job)
        if place.resumed is not None:
            if caches:
                self._settle_caches(attempt, place.resumed.cache_keys)
            return
        if caches:
            code = PhaseCode.JOB_CACHE_RESTORE
            with attempt.work(Section.CACHE_RESTORE, code) as output:
                output.begin()
                self._settle_caches(attempt, None)
                for fact in handover.restore_caches(job, place.session, output):
                    _cache_fact(attempt, code, fact)
        if handover.sources(job):
            code = PhaseCode.JOB_ARTIFACT_RESTORE
            with attempt.work(Section.ARTIFACT_RESTORE, code) as output:
                texts = handover.restore(job, place.session, self._workspace, output)
                for text in listed(texts, MAX_OVERLAPS):
                    attempt.warn(f"artifacts: {text}", code)

    def _settle_caches(self, attempt: Attempt, resumed: Sequence[str] | None) -> None:
        """The record keeps the keys, so that a job that goes on from here saves under the same ones."""
        keys = self._handover.settle_caches(attempt.job, self._workspace, resumed)
        attempt.fact("cache_keys", {"keys": list(keys)}, PhaseCode.JOB_CACHE_RESTORE)

    def keep(self, attempt: Attempt, place: Place) -> None:
        """After the last step: artifacts, test reports, and what the job changed in a view of its own."""
        code = PhaseCode.JOB_ARTIFACT_EXTRACT
        with _only_a_warning(attempt, code):
            place.session.settle()
        if attempt.job.artifacts is not None:
            with (
                attempt.work(Section.ARTIFACT_EXTRACT, code) as output,
                self._not_kept(attempt, code, "artifacts"),
            ):
                self._collect(attempt, place, output)
        if self._handover.caches(attempt.job):
            save = PhaseCode.JOB_CACHE_SAVE
            with attempt.work(Section.CACHE_SAVE, save) as output, self._not_kept(attempt, save, "cache"):
                output.begin()
                for fact in self._handover.save_caches(attempt.job, place.session, attempt.status, output):
                    _cache_fact(attempt, save, fact)
        # Listing changes is a service to the reader: that it failed is not the job's failure.
        with _only_a_warning(attempt, code, "what the job changed could not be listed: "):
            if changes := place.session.changes():
                paths = [f"{change.kind} {change.path}" for change in changes]
                attempt.fact("workspace_changed", {"count": len(paths), "paths": paths[:MAX_CHANGES]}, code)

    def _collect(self, attempt: Attempt, place: Place, on_output: OnOutput) -> None:
        code = PhaseCode.JOB_ARTIFACT_EXTRACT
        saved = self._handover.collect(attempt.job, place.session, attempt.status, on_output)
        if saved is not None:
            attempt.fact("artifacts_saved", saved, code)
            for pattern in saved["missing"]:
                attempt.warn(f"artifacts: nothing matches {pattern}{_broken_off(attempt)}", code)
            _warn_of_left_out(attempt, code, "artifacts", saved)
        reports = self._handover.reports(attempt.job, place.session, place.request.project_dir)
        if reports is not None:
            totals, failing = report_facts(reports)
            attempt.fact("test_reports", totals, code)
            for test in failing:
                attempt.fact("failing_test", test, code)

    @contextmanager
    def _not_kept(self, attempt: Attempt, code: PhaseCode, what: str) -> Iterator[None]:
        """Of a job that has its result already, that something could not be kept is a warning; else it is the result."""
        try:
            yield
        except InfrastructureError as error:
            if attempt.status is not Status.SUCCESS and not self._cancel.requested:
                attempt.warn(f"{what}: not kept: {error.message}", code)
            raise


@contextmanager
def _only_a_warning(attempt: Attempt, code: PhaseCode, before: str = "") -> Iterator[None]:
    try:
        yield
    except InfrastructureError as error:
        attempt.warn(f"{before}{error.message}", code)


def _cache_fact(attempt: Attempt, code: PhaseCode, fact: Mapping[str, Any]) -> None:
    attempt.fact("cache", fact, code)
    if fact.get("warning"):
        attempt.warn(f"cache: {fact['warning']}", code)
    _warn_of_left_out(attempt, code, "cache", fact)


def _warn_of_left_out(attempt: Attempt, code: PhaseCode, what: str, fact: Mapping[str, Any]) -> None:
    """Files that were asked for and not kept, since they hold a secret, can't be read, or are none."""
    texts = [f"{item['path']} left out: {item['reason']}" for item in fact.get("skipped", ())[:MAX_LEFT_OUT]]
    more = fact.get("skipped_total", 0) - len(texts)
    if more > 0:
        texts.append(f"{more} more left out: `loom logs {attempt.job.id} --system` names them")
    for text in texts:
        attempt.warn(f"{what}: {text}", code)


def _broken_off(attempt: Attempt) -> str:
    """Why something is not there that the job would have made, where it did not come to its end."""
    if attempt.status is not Status.ERROR or not attempt.error:
        return ""
    return f", since the job was broken off: {attempt.error.splitlines()[0]}"
