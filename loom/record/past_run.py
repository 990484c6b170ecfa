"""Read an earlier run to resume or enter it: plan, job results, step variables."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

from loom.errors import LoomError, RequestError
from loom.plan.model import Job, MountMode, Plan, Resolved, Step
from loom.record.facts import COMMAND_USER, NOT_KEPT
from loom.record.fold import JobState
from loom.record.reader import Reading
from loom.record.run import LeftContainer, Resumed, TakenOver, View, load_run
from loom.record.run_paths import artifacts_beside
from loom.record.store import RunEntry, entry_at
from loom.status import JobResult, Status
from loom.util.digests import file_digest
from loom.util.paths import is_of_job
from loom.values import Immutable


class PastRun(Reading):
    """A run to resume or to enter. RecordError when its record is incomplete."""

    def __init__(self, entry: RunEntry) -> None:
        super().__init__(entry)
        self.planned = load_run(self.paths.plan)
        self._before: dict[str, PastRun] = {}
        """The runs in which jobs failed that did not run again in this one, by their ids."""
        for run_id in {*self.fold.failed_earlier.values()}:
            if run_id < self.run_id:  # a record from elsewhere might go round in a circle
                with suppress(LoomError):  # `loom clean` has removed it
                    self._before[run_id] = PastRun(entry_at(self.paths.sibling(run_id)))

    @property
    def workspace(self) -> Path:
        return Path(str(self.fold.started.get("workspace", "")))

    @property
    def plan(self) -> Plan:
        return self.planned.plan

    @property
    def repo_root(self) -> Path:
        return self.planned.repo_root

    @property
    def snapshot(self) -> Mapping[str, Any] | None:
        """The recorded facts of the run's snapshot; None without one."""
        return self.fold.facts.get("snapshot_taken")

    def job(self, job_id: str) -> PastJob:
        """Return a job of the run, or of the earlier one in which it failed. RequestError for an unknown job."""
        before = self._before.get(self.run_of(job_id))
        if before is not None and job_id in self.fold.failed_earlier:
            return before.job(job_id)
        try:
            return PastJob(run=self, job=self.plan.job(job_id))
        except KeyError:
            ids = [job.id for job in self.plan.jobs]
            named = [job for job in self.plan.jobs if job.name == job_id]
            if len(named) == 1:
                return PastJob(run=self, job=named[0])
            raise RequestError(
                f"run {self.run_id} has no job {job_id!r}", hint=f"its jobs: {', '.join(ids)}", code="JOB_UNKNOWN"
            ) from None

    def failed(self) -> list[str]:
        """Return jobs that failed or never ran, in plan order."""
        return [
            job.id
            for job in self.plan.jobs
            if job.id in self.fold.failed_earlier
            or (
                (state := self.fold.jobs.get(job.id)) is not None
                and state.status is not Status.SUCCESS
                and not state.allowed_failure
            )
        ]

    def one_job(self) -> PastJob:
        """Return the default job of a command: the failed one, or the only one. RequestError if there is neither."""
        failing = self.fold.failing_job()
        if failing is not None:
            return self.job(failing.id)
        for job_id in self.fold.failed_earlier:
            return self.job(job_id)
        ran = [job.id for job in self.plan.jobs if job.id in self.fold.jobs]
        kept = [job_id for job_id in ran if "session_kept" in self.fold.jobs[job_id].facts]
        going = [job_id for job_id in ran if self.fold.jobs[job_id].end is None and self.fold.jobs[job_id].phases]
        resumed = [job_id for job_id in ran if self.fold.jobs[job_id].fact("session_opened").get("kept") == "adopted"]
        for candidates in (kept, going, resumed, ran):
            if len(candidates) == 1:
                return self.job(candidates[0])
        raise RequestError(
            f"run {self.run_id} has no failed job: name the one that you mean", hint=f"its jobs: {', '.join(ran)}"
        )

    @property
    def _taken_over(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the jobs with results taken over from this run's parent."""
        jobs: Mapping[str, Mapping[str, Any]] = self.fold.fact("results_reused").get("jobs", {})
        return jobs

    def run_of(self, job_id: str) -> str:
        """Return the run that ran this job: this one, or the one that its result comes from."""
        return str(self._taken_over.get(job_id, {}).get("run_id") or self.run_id)

    def archive_of(self, job_id: str) -> Path:
        """Locate the artifacts of a job, its own or taken over."""
        if job_id in self._taken_over:
            return Path(str(self._taken_over[job_id]["archive"]))
        return self.entry.paths.artifacts_archive(job_id)

    def result_of(self, job_id: str) -> JobResult | None:
        """Return the result of a job, or None if it did not end."""
        state = self.fold.jobs.get(job_id)
        if state is None and job_id in self._taken_over:
            before = self._taken_over[job_id]
            return JobResult(
                status=Status(before["status"]),
                allowed_failure=before["allowed_failure"],
                exit_code=before["exit_code"],
                outputs=before.get("outputs", {}),
            )
        if state is None or state.end is None or state.status is None:
            return None
        return JobResult(
            status=state.status,
            allowed_failure=state.allowed_failure,
            exit_code=state.end.exit_code,
            outputs=state.outcome.get("outputs", {}),
        )

    def has_artifacts_of(self, job_id: str) -> bool:
        """Return whether all that a job of this run left for others is there, as it was then."""
        archive, state = self.archive_of(job_id), self.fold.jobs[job_id]
        left = {artifacts_beside(archive) / fact["archive"]: fact["sha256"] for fact in state.listed("artifact")}
        if (saved := state.facts.get("artifacts_saved")) is not None:
            left[archive] = saved["sha256"]
        try:
            return all(file_digest(path) == digest for path, digest in left.items())
        except OSError:
            return False

    def taken_over(self, job_id: str, result: JobResult | None = None) -> TakenOver:
        """Return the job for a run that does not run it again; `result`: of a job that never ended."""
        found = self.result_of(job_id) or result
        assert found is not None
        return TakenOver(
            result=found,
            archive=self.archive_of(job_id),
            run_id=self.run_of(job_id),
            steps=self.steps_before(job_id),
        )

    def steps_before(self, job_id: str, step: str | None = None) -> dict[str, float]:
        """Return the job's steps before one (None: all), each with the time that it took when it ran, in milliseconds."""
        reused = self.fold.fact("steps_reused").get("jobs", ())
        known = {each["job_id"]: each["steps"] for each in reused}.get(job_id, {})
        if (state := self.fold.jobs.get(job_id)) is not None:
            spans = ((name, span) for (number, name), span in state.steps.items() if number == state.attempts)
            known = {**known, **{name: span.duration_ms or 0.0 for name, span in spans}}
        order = [each.id for each in self.job(job_id).job.steps]
        return {name: known[name] for name in order[: order.index(step) if step else None] if name in known}


class PastJob(Immutable):
    run: PastRun
    job: Job

    @property
    def id(self) -> str:
        return self.job.id

    @property
    def state(self) -> JobState:
        return self.run.fold.jobs.get(self.id) or JobState(self.id, {})

    @property
    def failing_step(self) -> str | None:
        result = self.state.end
        return result.data.get("failing_step") if result else None

    @property
    def last_step(self) -> str | None:
        """Return the last started step, the position of a job that something other than a step ended."""
        return next((step for _, step in reversed(self.state.steps)), None)

    @property
    def kept(self) -> Mapping[str, Any]:
        """Empty if nothing was kept."""
        return self.state.fact("session_kept")

    @property
    def not_kept(self) -> str:
        """Return the reason that it could not be kept; empty if it was, or nobody wanted that."""
        warnings = (str(warning["text"]) for warning in self.state.listed("warning"))
        return next((text.removeprefix(NOT_KEPT) for text in warnings if text.startswith(NOT_KEPT)), "")

    @property
    def kept_id(self) -> str:
        """The id of its kept session; of a resume that was killed, the one that it continued in. Empty without one."""
        return str((self.kept or self.state.fact("session_opened")).get("container_id") or "")

    @property
    def may_be_kept(self) -> bool:
        """Return whether it may still have a container: it runs, was kept, or went on in one that was."""
        adopted = self.state.fact("session_opened").get("kept") == "adopted"
        return self.in_container and (self.run.entry.receipt is None or bool(self.kept) or adopted)

    @property
    def kept_at(self) -> datetime | None:
        """Return the time of its last step's end: jobs that share files write until the run's end."""
        last = self.run.fold.last
        ended = last.ts if self.shares_workspace and last is not None else None
        text = ended or self.kept.get("kept_at") or self.state.finished_at
        return datetime.fromisoformat(text) if text else None

    @property
    def ran_as_root(self) -> bool:
        return str(self.state.fact("session_opened").get("user", "")).startswith("0:")

    @property
    def view(self) -> View | None:
        """The job's view of the workspace; None when the job ended before it."""
        opened = self.state.facts.get("session_opened")
        if opened is None:
            return None
        files = Path(opened.get("workspace") or self.run.workspace)
        of_container = opened.get("mount_mode", "none") if self.in_container else "none"
        return View(
            mode=MountMode.BIND if of_container == "none" else MountMode(of_container),
            workspace=Path(opened.get("view_of") or files),
            directory=files.parent if is_of_job(files) else None,
        )

    @property
    def command_user(self) -> str:
        """The user that its session stated for commands; empty: the container's own."""
        return str(self.state.fact("session_opened").get(COMMAND_USER, ""))

    @property
    def manifest(self) -> Path:
        """The manifest of the snapshot that its files were last synced with."""
        view = self.view
        return view.brought if view is not None and view.brought.exists() else self.run.paths.snapshot

    @property
    def has_snapshot(self) -> bool:
        """Return whether its directory was the snapshot: from its start, or since a checkout that has ended."""
        done = {fact["step"] for fact in self.state.listed("step_state") if fact["outcome"] == "success"}
        checkouts = (step.id for step in self.job.steps if step.is_whole_checkout)
        if self.job.inputs is not None:
            return False
        lacks = self.job.no_checkout or (self.job.clone is not None and not self.job.clone.files)
        return not lacks or not done.isdisjoint(checkouts)

    @property
    def shares_workspace(self) -> bool:
        """Return whether it ran in the run's workspace itself."""
        return (view := self.view) is not None and view.files == self.run.workspace

    @property
    def expires_at(self) -> datetime | None:
        text = self.kept.get("expires_at")
        return datetime.fromisoformat(text) if text else None

    @property
    def image(self) -> Resolved | None:
        fact = self.state.facts.get("image_resolved")
        if fact is None:
            return None
        return Resolved(name=fact["name"], image_id=fact["id"], digest=fact.get("digest", ""))

    @property
    def cache_keys(self) -> tuple[str, ...]:
        """The keys of its caches at its start; empty if it ended before."""
        return tuple(self.state.fact("cache_keys").get("keys", ()))

    @property
    def in_container(self) -> bool:
        return self.job.image is not None

    def step(self, wanted: str | None) -> Step:
        """Return the step named `wanted` (`2`, `script/2`, `script/02`); None: the failed one, else the last one.

        One of an action that the job wrote is the step that uses the action. RequestError for an unknown step.
        """
        if wanted is None:
            wanted = self.failing_step or self.last_step or self.job.steps[0].id
        return self._using(wanted) or step_named(self.job, wanted)

    def _using(self, inner: str) -> Step | None:
        """Return the step whose written action a step that ran is of: the first that had not ended then.

        A post step is of any of them: the first, after which all is done again.
        """
        if all(inner != name for _, name in self.state.steps) or any(inner == step.id for step in self.job.steps):
            return None
        facts = (fact for fact in self.state.listed("step_state") if fact.get("attempt", 1) == self.state.attempts)
        ended = {fact["step"] for fact in takewhile(lambda fact: fact["step"] != inner, facts)}
        written = [step for step in self.job.steps if step.kind == "written"]
        return next((step for step in written if step.id not in ended), next(iter(written), None))

    def script_of(self, step: Step) -> str:
        """Return the script that the step ran, with its expressions evaluated."""
        span = self.state.steps.get((self.state.attempts, step.id))
        return (
            step.script
            if span is None or "${{" not in step.script
            else str(span.start.data.get("command", step.script))
        )

    def step_states(self, step: Step) -> list[Mapping[str, Any]]:
        """Return the facts of the steps before `step`, of a job that decides about its steps when they start."""
        before = [item.id for item in self.job.steps[: self.job.steps.index(step)]]
        facts = self.state.listed("step_state")
        return [
            fact for fact in facts if fact["step"] in before and fact.get("attempt", 1) == max(1, self.state.attempts)
        ]

    def handed_on(self, step: Step) -> Mapping[str, Any]:
        """Return the outputs of the steps before `step`, as the record has them (`step_outputs`)."""
        order = [item.id for item in self.job.steps]
        latest: Mapping[str, Any] = {}
        for fact in self.state.listed("handed_on"):
            said_by = fact.get("step") or ""
            if fact.get("attempt", 1) != max(1, self.state.attempts):
                continue
            if said_by == "" or (said_by in order and order.index(said_by) < order.index(step.id)):
                latest = fact
        return latest

    def resumed(self, step: str, **more: Any) -> Resumed:
        """Return the job for a run that goes on with it from this step."""
        archive, steps = self.run.archive_of(self.id), self.run.steps_before(self.id, step)
        return Resumed(
            step=step, archive=archive, run_id=self.run.run_id, steps=steps, cache_keys=self.cache_keys, **more
        )

    def container(self, container_id: str, handed_over: Path | None = None) -> LeftContainer:
        return LeftContainer(
            run_id=self.run.run_id, container_id=container_id, user=self.command_user, handed_over=handed_over
        )


def step_named(job: Job, wanted: str) -> Step:
    phase, _, number = wanted.rpartition("/")
    for step in job.steps:
        if step.phase == (phase or "script") and number.isdigit() and step.number == int(number):
            return step
    raise RequestError(
        f"job {job.id} has no step {wanted!r}",
        hint=f"its steps: {', '.join(step.id for step in job.steps)}; a number alone means one of `script`",
        code="STEP_UNKNOWN",
    )
