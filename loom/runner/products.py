"""Pass artifacts, test reports and caches between jobs and runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import asdict, replace

from loom.cancel import Cancel
from loom.errors import InfrastructureError
from loom.plan import variables
from loom.plan.model import Artifacts, Job, Plan, ReportKind, wanted
from loom.providers.base import Session
from loom.record.events import PhaseCode, Section
from loom.runner.attempt import Attempt
from loom.runner.session import OpenJob
from loom.status import Failure, OnOutput, Status
from loom.storage import artifacts, dotenv
from loom.storage.cache import Cache
from loom.storage.cache_keys import key_of
from loom.storage.tar import Content
from loom.storage.workspace import view_of
from loom.util.bounded import bounded
from loom.util.masking import Masker
from loom.util.paths import Tracked
from loom.util.refusals import refusals
from loom.util.toposort import CycleError
from loom.util.units import counted
from loom.workflow.interpolation import ExpansionTooLong

if TYPE_CHECKING:
    from loom.storage import findings, junit

MAX_LEFT_OUT = 5
"""Number of warnings about individual files that could not be kept."""
MAX_NAMED = 20
"""Number of missing paths, failing tests, findings or restored jobs to name."""

T = TypeVar("T")


class Handover:
    """The artifacts of a run's jobs. Thread-safe: each job writes its own files, and reads only those of ended jobs."""

    def __init__(
        self,
        plan: Plan,
        *,
        workspace: Path,
        archive_of: Callable[[str], Path],
        logs: Path,
        masker: Masker,
        cache: Cache | None = None,
        tracked: Callable[[], Tracked],
        missing_here: frozenset[str] = frozenset(),
        cancel: Cancel | None = None,
    ) -> None:
        """`workspace`: the run's, which jobs may share. `tracked`: list what git tracks of it.

        `missing_here`: jobs of an earlier run with products in another workspace than the run's.
        """
        self._workspace = workspace
        self._missing_here = set(missing_here)
        self._cancel = cancel or Cancel()
        self._tracked = tracked
        makers = [job for job in plan.jobs if job.artifacts is not None]
        self._position = {job.id: number for number, job in enumerate(makers)}
        self._before = {
            stage: [job.id for job in makers if job.stage in plan.stages[:number]]
            for number, stage in enumerate(plan.stages)
        }
        self._own_archive_of = archive_of
        self._above = {name: Path(archive) for job in plan.jobs for name, archive in job.artifacts_above.items()}
        self._logs = logs
        self._masker = masker
        self._cache = cache
        self._checksums: dict[str, str] = {}
        self._cache_keys: dict[str, list[str]] = {}
        self._reported: dict[str, dict[str, str]] = {}
        self._merged: dict[str, dict[str, str]] = {}
        self._sources: dict[str, list[str]] = {}

    def sources(self, job: Job) -> list[str]:
        """Return the jobs with artifacts for `job`, in plan order: its needs, or all earlier stages without `needs`; then
        those of the pipelines above.
        """
        return self._once(
            self._sources, job, lambda jobs: [other for other in jobs if self._archive_of(other).exists()]
        )

    def _archive_of(self, source: str) -> Path:
        return self._above.get(source) or self._own_archive_of(source)

    def _once(self, known: dict[str, T], job: Job, found: Callable[[Sequence[str]], T]) -> T:
        """Call `found` with the jobs whose artifacts `job` gets; once per stage for jobs that get those of all earlier stages."""
        if job.artifacts_from is not None or job.needs is not None:
            return found(self._origins(job))
        if job.stage not in known:  # concurrent jobs may both find it, which is harmless
            known[job.stage] = found(self._origins(job))
        return known[job.stage]

    def _origins(self, job: Job) -> list[str]:
        """Return the jobs whose artifacts and variables `job` gets, whether they left any or not."""
        if job.artifacts_from is None and job.needs is None:
            return self._before[job.stage]
        named = job.artifacts_from
        if named is None:
            named = tuple(need.job for need in job.needs or () if need.artifacts)
        own = {other for other in named if other in self._position}
        return [*sorted(own, key=self._position.__getitem__), *job.artifacts_above]

    def fill_reported(self, job: Job, run: Mapping[str, str], allowed: Sequence[str]) -> Job:
        """Return the job with the variables that the jobs before it reported; of the same name, the last job's counts.

        `run`: the run's variables, to which they may refer; `allowed`: see `plan.reported.may_get`.
        """
        found = self._once(self._merged, job, self._reported_by)
        try:
            return variables.add_reported(job, found, run, allowed) if found else job
        except (CycleError, ExpansionTooLong) as error:
            why = f"variables: {error}, with what the jobs before {job.id} report"
            return replace(job, refused=(*job.refused, why))

    def _reported_by(self, jobs: Sequence[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for other in jobs:
            if other not in self._reported:  # of an earlier run, or none
                self._reported[other] = dotenv.kept(self._archive_of(other))
            found |= self._reported[other]
        return found

    def restore_artifacts(self, job: Job, session: Session, on_output: OnOutput) -> None:
        """Restore earlier jobs' artifacts into this job's view; a shared workspace already holds them.

        Restored in plan order, later files win.
        """
        here = session.files()
        shared, view = here == self._workspace, view_of(here, self._check_cancel)
        missing = [
            each for each in self.sources(job) if not shared or each in self._missing_here or each in self._above
        ]
        restored = artifacts.restore({self._archive_of(each): self._checksums.get(each) for each in missing}, view)
        for source, each in list(zip(missing, restored, strict=True))[:MAX_NAMED]:
            on_output("stdout", f"{source}: {counted(each.files, 'file')}, {counted(each.bytes, 'byte')}\n".encode())
        # A line of each for each later job would make the record grow with the square of the jobs.
        if more := restored[MAX_NAMED:]:
            files, size = sum(each.files for each in more), sum(each.bytes for each in more)
            on_output(
                "stdout",
                f"{counted(len(more), 'more job')}: {counted(files, 'file')}, {counted(size, 'byte')}\n".encode(),
            )

    # -- interrupts: what is for steps that will not run any more ends with the first, what a job leaves with the second ---

    def _check_cancel(self) -> None:
        if self._cancel.requested:
            raise InfrastructureError("interrupted", code="CANCELED")

    def _check_second_cancel(self) -> None:
        if self._cancel.now:
            raise InfrastructureError("interrupted", code="CANCELED")

    # -- in the phases of a job ------------------------------------------------------------------------------------

    def restore(self, attempt: Attempt, open_job: OpenJob) -> None:
        """Restore, before the first step, caches, then earlier jobs' artifacts. A resumed job already has them."""
        job, session = attempt.job, open_job.session
        if open_job.resumed is not None:
            if self._cache is not None and job.cache:
                self._settle_caches(attempt, list(open_job.resumed.cache_keys))
            return
        if self._cache is not None and job.cache:
            code = PhaseCode.JOB_CACHE_RESTORE
            with attempt.work(Section.CACHE_RESTORE, code) as output:
                output.begin()
                keys = [key_of(spec, self._workspace) for spec in job.cache]
                self._settle_caches(attempt, keys)
                for spec, key in zip(job.cache, keys, strict=True):
                    if "pull" in spec.policy:
                        found = self._cache.restore(spec, key, view_of(session.files(), self._check_cancel), output)
                        fact = {"action": "restore", "name": spec.name, "wanted": key, **asdict(found)}
                        _cache_fact(attempt, code, fact)
        if self.sources(job):
            with attempt.work(Section.ARTIFACT_RESTORE, PhaseCode.JOB_ARTIFACT_RESTORE) as output:
                self.restore_artifacts(job, session, output)

    def _settle_caches(self, attempt: Attempt, keys: list[str]) -> None:
        """Keep the keys, before the job changes the files that they hash; a resumed job saves under those of its earlier run."""
        self._cache_keys[attempt.job.id] = keys
        attempt.fact("cache_keys", {"keys": keys}, PhaseCode.JOB_CACHE_RESTORE)

    def keep(self, attempt: Attempt, open_job: OpenJob) -> None:
        """Keep, after the last step, artifacts, test reports, and the job's changes to its own view."""
        code = PhaseCode.JOB_ARTIFACT_EXTRACT
        try:
            with refusals():
                open_job.session.settle()
        except InfrastructureError as error:
            attempt.warn(error.message, code)
        if attempt.job.artifacts is not None:
            with (
                attempt.work(Section.ARTIFACT_EXTRACT, code) as output,
                self._reported_loss(attempt, code, "artifacts"),
            ):
                self._collect(attempt, attempt.job.artifacts, open_job.session, output)
                self._report_variables(attempt, attempt.job.artifacts, open_job.session, output)
                if attempt.job.artifacts.reports:
                    self._read_reports(attempt, attempt.job.artifacts, open_job)
        if self._cache is not None and attempt.job.cache:
            save = PhaseCode.JOB_CACHE_SAVE
            with attempt.work(Section.CACHE_SAVE, save) as output, self._reported_loss(attempt, save, "cache"):
                output.begin()
                self._save_caches(self._cache, attempt, open_job.session, output)

    def _collect(self, attempt: Attempt, spec: Artifacts, session: Session, on_output: OnOutput) -> None:
        job, code = attempt.job, PhaseCode.JOB_ARTIFACT_EXTRACT
        if session.files() != self._workspace:  # of two providers, one may share it
            self._missing_here.add(job.id)
        if not (spec.paths or spec.untracked) or not wanted(spec.when, attempt.status):
            return
        kept = artifacts.collect(
            spec,
            view_of(session.files(), self._check_second_cancel),
            archive=self._archive_of(job.id),
            on_output=on_output,
            masker=self._masker,
            tracked=self._tracked() if spec.untracked else None,
        )
        self._checksums[job.id] = kept.sha256
        saved = {
            "name": spec.name,
            "archive_path": str(self._archive_of(job.id).relative_to(self._logs)),
            "sha256": kept.sha256,
            "files": kept.files,
            "bytes": kept.bytes,
            "missing": list(kept.missing),
            **bounded("skipped", [{"path": item.path, "reason": item.reason} for item in kept.skipped], MAX_NAMED),
            "expire_in_s": spec.expire_in_s,
        }
        attempt.fact("artifacts_saved", saved, code)
        for pattern in kept.missing:
            attempt.warn(f"artifacts: nothing matches {pattern}{_broken_off(attempt)}", code)
        _warn_of_left_out(attempt, code, "artifacts", saved)

    def _report_variables(self, attempt: Attempt, spec: Artifacts, session: Session, on_output: OnOutput) -> None:
        """Take the variables that the job reports for later ones."""
        if not (patterns := spec.reports.get("dotenv")):
            return
        found, missing = dotenv.read(patterns, view_of(session.files(), self._check_second_cancel))
        self._reported[attempt.job.id] = found
        on_output("stdout", f"variables for later jobs: {', '.join(found) or 'none'}\n".encode())
        text = "\n".join(found.values())
        # The record has no secrets: runs that go on from this one lack such variables.
        if self._masker.mask(text) == text:
            dotenv.keep(found, self._archive_of(attempt.job.id))
        for pattern in missing:
            why = f"artifacts: no dotenv report matches {pattern}{_broken_off(attempt)}"
            attempt.warn(why, PhaseCode.JOB_ARTIFACT_EXTRACT)

    def _read_reports(self, attempt: Attempt, spec: Artifacts, open_job: OpenJob) -> None:
        """Read the job's reports, whatever its result."""
        from loom.storage import findings, junit  # with readers of XML and of several forms: 10 ms

        project_dir = open_job.request.project_dir

        def reports(kind: ReportKind, read: Callable[[Content, str], T]) -> list[artifacts.ReadReports[T]]:
            patterns = spec.reports.get(kind)
            view = view_of(open_job.session.files(), self._check_second_cancel)
            return [artifacts.read_reports(patterns, view, read)] if patterns else []

        def finding_reports(kind: findings.Kind) -> list[artifacts.ReadReports[findings.FindingReport]]:
            return reports(kind, lambda file, _: findings.read(kind, file, project_dir=project_dir))

        tests = reports("junit", lambda file, path: junit.read(file, project_dir=project_dir, report=path))
        named = [one for kind in findings.KINDS for one in finding_reports(kind)]
        for fact, of_one, facts in (
            ("test_reports", "failing_test", test_facts(tests[0]) if tests else None),
            ("finding_reports", "finding", finding_facts(named) if named else None),
        ):
            if facts is not None:
                totals, first = facts
                attempt.fact(fact, totals, PhaseCode.JOB_ARTIFACT_EXTRACT)
                for one in first:
                    attempt.fact(of_one, one, PhaseCode.JOB_ARTIFACT_EXTRACT)

    def _save_caches(self, cache: Cache, attempt: Attempt, session: Session, on_output: OnOutput) -> None:
        job = attempt.job
        for spec, key in zip(job.cache, self._cache_keys.get(job.id, ()), strict=False):
            if "push" in spec.policy and wanted(spec.when, attempt.status):
                view = view_of(session.files(), self._check_second_cancel)
                tracked = self._tracked() if spec.untracked else None
                saved = cache.save(spec, key, view, on_output, masker=self._masker, tracked=tracked)
                fact = asdict(saved) | bounded("skipped", [asdict(item) for item in saved.skipped], MAX_NAMED)
                _cache_fact(attempt, PhaseCode.JOB_CACHE_SAVE, {"action": "save", "name": spec.name, **fact})

    @contextmanager
    def _reported_loss(self, attempt: Attempt, code: PhaseCode, what: str) -> Iterator[None]:
        """Report a failure to keep products: as a warning if the job already has its result, else as its result."""
        try:
            with refusals():
                yield
        except InfrastructureError as error:
            if attempt.status is not Status.SUCCESS and not self._cancel.requested:
                attempt.warn(f"{what}: not kept: {error.message}", code)
            raise


_Facts = tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]
"""Totals, and the first ones."""


def test_facts(reports: artifacts.ReadReports[junit.Report]) -> _Facts:
    """Return the totals and the first failing tests, for the record."""
    totals = {
        name: sum(getattr(report, name) for report in reports.read)
        for name in ("tests", "failures", "errors", "skipped")
    }
    if flaky := sum(report.flaky for report in reports.read):
        totals["flaky"] = flaky
    failing = [test for report in reports.read for test in report.failing]
    return _totals([reports], totals), [asdict(test) for test in failing[:MAX_NAMED]]


def finding_facts(reports: Sequence[artifacts.ReadReports[findings.FindingReport]]) -> _Facts:
    """Return the totals and the first findings, for the record. What a report says again after another counts once."""
    found: list[Failure] = []
    total = 0
    for report in (one for kind in reports for one in kind.read):
        known = {(each.file, each.line, each.code) for each in found}
        own = [each for each in report.first if (each.file, each.line, each.code) not in known]
        total += report.total - len(report.first) + len(own)
        found += own
    return _totals(reports, {"findings": total}), [asdict(each) for each in found[:MAX_NAMED]]


def _totals(reports: Sequence[artifacts.ReadReports[Any]], counts: Mapping[str, int]) -> Mapping[str, Any]:
    read = sum(len(kind.read) for kind in reports)
    problems = [text for kind in reports for text in kind.problems]
    problems += [f"{pattern}: no such file" for kind in reports for pattern in kind.missing]
    return {"reports": read, **counts, **bounded("problems", problems, MAX_NAMED)}


def _cache_fact(attempt: Attempt, code: PhaseCode, fact: Mapping[str, Any]) -> None:
    attempt.fact("cache", fact, code)
    if fact.get("warning"):
        attempt.warn(f"cache: {fact['warning']}", code)
    _warn_of_left_out(attempt, code, "cache", fact)


def _warn_of_left_out(attempt: Attempt, code: PhaseCode, what: str, fact: Mapping[str, Any]) -> None:
    """List requested files that were not kept because they hold a secret, are unreadable or not regular."""
    texts = [f"{item['path']} left out: {item['reason']}" for item in fact.get("skipped", ())[:MAX_LEFT_OUT]]
    more = fact.get("skipped_total", 0) - len(texts)
    if more > 0:
        texts.append(f"{more} more left out: `loom logs {attempt.job.id} --system` names them")
    for text in texts:
        attempt.warn(f"{what}: {text}", code)


def _broken_off(attempt: Attempt) -> str:
    """Explain missing files of a job that did not complete."""
    if attempt.status is not Status.ERROR or not attempt.error:
        return ""
    return f", since the job was broken off: {attempt.error.splitlines()[0]}"
