"""What a run makes of a world that breaks: the record, the workspace, the engine, the place of a job; and of interrupts."""

import json
import os
import shutil
import threading
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from loom.analysis.evidence import diagnosis_of
from loom.cancel import Cancel
from loom.config.pools import Pool
from loom.errors import EngineUnavailable, InfrastructureError, ProviderError, RecordError, SnapshotError
from loom.providers.host import HostProvider
from loom.record.events import RUN, PhaseCode
from loom.record.run_record import RunRecord
from loom.runner.start import RunStart
from loom.runner.tools import JOBS_ELSEWHERE, first_jobs
from loom.status import ExitCode
from tests.support.waiting import until
from tests.unit.providers.far_provider import FarProvider

from .conftest import Make, Replaced, on

TWO = """stages: [a, b]
one: {stage: a, script: ['echo one']}
two: {stage: b, script: ['echo two']}
"""


class Watching:
    """A sink that does something at a certain event."""

    def __init__(self, message: str, then: Any, *, kind: str = "message") -> None:
        self.message, self.then, self.kind = message, then, kind

    def phase(self, event: Any) -> None:
        if self.message in (event.message, event.phase_code) and event.kind == self.kind:
            self.then()

    def output(self, batch: Any) -> None:
        """It does not matter."""

    def close(self) -> None:
        """Nothing is open."""


def sink(*given: Any, **named: Any) -> Sequence[Any]:
    return [Watching(*given, **named)]


# -- the record -------------------------------------------------------------------------------------------------------


def test_without_a_record_nothing_begins(make: Make) -> None:
    project = make(TWO)
    (project.home / "state").mkdir(mode=0o700)
    (project.home / "state" / "runs").write_text("in the way")
    with pytest.raises(InfrastructureError):
        project.run()
    assert not (project.home / "workspaces").exists()


def test_a_record_that_is_removed_ends_the_run(make: Make) -> None:
    project = make(TWO)
    with pytest.raises(InfrastructureError) as error:
        project.run(sinks=sink("job_finished", lambda: shutil.rmtree(project.home / "state" / "runs")))
    assert error.value.code == "RECORD_UNWRITABLE"


def test_a_bug_of_the_run_leaves_nothing_open(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Any] = []
    told: list[str] = []

    class Broken:
        def __init__(self, started: RunStart) -> None:
            begun.append(started)

        def execute(self) -> None:
            raise RuntimeError("a bug")

    monkeypatch.setattr("loom.runner.pipeline.Execution", Broken)
    project = make(TWO)
    with pytest.raises(RuntimeError, match="a bug"):
        project.run(sinks=sink("later", lambda: told.append("told")))
    (started,) = begun
    started.journal.fact(RUN, PhaseCode.RUN_FINALIZE, "later", {})
    assert told == []
    assert not started.workspace.exists()
    opened = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.lexists(entry.path)]
    assert [path for path in opened if path.startswith(str(started.record.paths.root))] == []


def test_a_run_without_descriptors_for_the_rest_of_loom_ends_in_a_receipt(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> Any:
        raise InfrastructureError("too many open files", code="X")

    project = make(TWO)
    monkeypatch.setattr("loom.runner.api.refusals", refused)
    ran = project.run(code=3)
    assert ran.result.receipt.error == "too many open files"
    assert not ran.workspace.exists()


@pytest.mark.parametrize("event", ["snapshot_taken", "session_opened", "step.execute", "job_finished"])
def test_a_record_that_is_full_ends_the_run_and_its_jobs(
    make: Make, monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    closed: list[str] = []

    class Closing(HostProvider):
        def close(self, cancel: Cancel | None = None) -> Sequence[str]:
            closed.append("closed")
            return super().close(cancel)

    project = make(TWO)
    full = False

    def fill() -> None:
        nonlocal full
        full = True

    append = RunRecord.append

    def appending(self: RunRecord, *given: Any, **named: Any) -> Any:
        if full:
            raise RecordError("full", code="RECORD_UNWRITABLE")
        return append(self, *given, **named)

    monkeypatch.setattr(RunRecord, "append", appending)
    with pytest.raises(RecordError):
        project.run(
            tools=on(Closing(os.environ)),
            sinks=[Watching(event, fill), Watching(event, fill, kind="phase_started")],
            code=None,
        )
    assert closed
    until(lambda: not any(thread.name.startswith("job ") for thread in threading.enumerate()))


# -- the beginning ----------------------------------------------------------------------------------------------------


def test_a_workspace_that_can_not_be_made_is_the_runs_error(make: Make) -> None:
    project = make(TWO)
    (project.home / "workspaces").write_text("in the way")
    ran = project.run(code=3)
    assert "the isolated workspace can't be made at" in (ran.result.receipt.error or "")
    assert ran.statuses == {"one": "skipped", "two": "skipped"}
    assert ran.error("one") == "the run could not start"


def test_a_snapshot_that_fails_is_the_runs_error(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def take(*_: object, **__: object) -> Any:
        raise SnapshotError("unreadable", code="SNAPSHOT_UNREADABLE")

    monkeypatch.setattr("loom.snapshot.take", take)
    ran = make(TWO).run(code=3)
    assert (ran.result.receipt.error, ran.result.receipt.error_code) == ("unreadable", "SNAPSHOT_UNREADABLE")
    assert ran.statuses == {"one": "skipped", "two": "skipped"}
    assert not ran.workspace.exists()
    assert not ran.workspace.with_name(f"{ran.workspace.name}.jobs").exists()
    assert ran.job("one").blocked_by is None
    assert [phase.status for phase in ran.job("one").phases] == ["skipped"] * 3


def test_an_engine_that_does_not_answer_is_the_runs_error(make: Make) -> None:
    class Silent(HostProvider):
        def check(self) -> None:
            raise EngineUnavailable("no engine answers", code="ENGINE_DOWN")

    ran = make(TWO).run(code=3, tools=on(Silent(os.environ)))
    assert (ran.result.receipt.error, ran.result.receipt.error_code) == ("no engine answers", "ENGINE_DOWN")
    assert not ran.workspace.exists()
    assert ran.facts("engine_answered") == []


def test_the_engine_that_answered_is_stated_and_notices_are(make: Make) -> None:
    class Named(HostProvider):
        def described(self) -> str:
            return "an engine of tests"

    ran = make(TWO).run(tools=on(Named(os.environ)))
    assert ran.facts("engine_answered") == [{"engine": "an engine of tests"}]
    assert ran.notices() == [
        "on this machine, not isolated (--no-container): one, two; in a container: loom run --container"
    ]


def test_an_interrupt_while_the_workspace_is_filled(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    cancel = Cancel()

    def take(*_: object, **__: object) -> Any:
        cancel.request()
        raise SnapshotError("broken off", code="X")

    monkeypatch.setattr("loom.snapshot.take", take)
    ran = make(TWO).run(code=130, cancel=cancel)
    assert ran.result.receipt.error == "interrupted"
    assert ran.result.receipt.error_code is None
    assert ran.reading.fold.status == "canceled"
    assert ran.facts("interrupted") == [
        {"by": "interrupted", "at_once": False, "grace_s": 10.0, "during": "run.bootstrap"}
    ]


@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_while_a_thread_fills_the_workspace(
    make: Make, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr("loom.cancel.AT_ONCE_S", 0.0)
    cancel, over = Cancel(), threading.Event()
    threads: list[str] = []

    def take(*_: object, cancel: Cancel, **__: object) -> Any:
        threads.append(threading.current_thread().name)
        for _ in range(times):
            run_cancel.request()
        if times == 2:
            over.wait(60)
        assert cancel.requested
        raise SnapshotError("broken off", code="X")

    run_cancel = cancel
    monkeypatch.setattr("loom.snapshot.take", take)
    ran = make(TWO.replace("stage: b", "stage: a")).run(code=130, cancel=cancel, on="far")
    over.set()
    assert threads == ["snapshot"]
    assert (ran.result.receipt.error, ran.reading.fold.status) == ("interrupted", "canceled")
    assert ran.statuses == {"one": "skipped", "two": "skipped"}


def test_a_snapshot_that_nobody_gets_leaves_no_files(make: Make) -> None:
    class Silent(FarProvider):
        def check(self) -> None:
            raise EngineUnavailable("no engine answers", code="ENGINE_DOWN")

    project = make(TWO.replace("stage: b", "stage: a"))
    ran = project.run(code=3, on="far", tools=on(Silent(project.home / "far"), "far"))
    assert ran.result.receipt.error_code == "ENGINE_DOWN"
    assert not ran.workspace.exists()


# -- jobs -------------------------------------------------------------------------------------------------------------


def gone(*_: object, **__: object) -> Any:
    raise ProviderError("the place is gone", code="CONTAINER_LOST")


def test_a_session_that_breaks_is_the_jobs_error_and_the_receipt_names_it(make: Make) -> None:
    ran = make(TWO).run(code=3, tools=on(Replaced(run=gone)))
    assert ran.statuses == {"one": "error", "two": "skipped"}
    assert ran.job("one").outcome["failing_step"] == "script/01"
    assert ran.job("two").blocked_by == "one"
    receipt = ran.result.receipt
    assert (receipt.error, receipt.error_code) == ("one: the place is gone", "CONTAINER_LOST")
    assert ran.result.diagnosis is not None
    assert ran.reading.paths.diagnosis.exists()


def test_a_session_that_can_not_be_closed_is_an_error_of_clean_up(make: Make) -> None:
    class Closing(HostProvider):
        def open(self, *arguments: Any, **named: Any) -> Any:
            opening = super().open(*arguments, **named)

            @contextmanager
            def both() -> Any:
                with opening as session:
                    yield session
                raise ProviderError("it stays", code="CLEANUP_FAILED")

            return both()

    ran = make(TWO).run(code=3, tools=on(Closing(os.environ)))
    assert ran.job("one").outcome["failing_section"] == "cleanup"
    assert ran.error("one") == "it stays"


def test_what_a_provider_could_not_remove_is_a_warning_of_the_run(make: Make) -> None:
    class Leaving(HostProvider):
        left: Sequence[str] = ("a volume stays",)

        def close(self, cancel: Cancel | None = None) -> Sequence[str]:
            left, self.left = self.left, ()
            return left

    ran = make(TWO).run(tools=on(Leaving(os.environ)))
    assert ran.warnings() == ["a volume stays"]


def test_a_bug_ends_the_run_without_a_receipt_and_closes_what_is_open(make: Make) -> None:
    closed: list[str] = []

    class Buggy(HostProvider):
        def open(self, *_: Any, **__: Any) -> Any:
            raise ZeroDivisionError

        def close(self, cancel: Cancel | None = None) -> Sequence[str]:
            closed.append("closed")
            return ()

    project = make(TWO)
    with pytest.raises(ZeroDivisionError):
        project.run(tools=on(Buggy(os.environ)))
    assert closed


def test_an_interrupted_run_has_its_signal_and_what_ran(make: Make) -> None:
    cancel = Cancel()
    project = make(TWO.replace("echo one", "sleep 60"))
    ran = project.run(
        code=143,
        cancel=cancel,
        sinks=sink("step.execute", lambda: cancel.request(ExitCode.TERMINATED), kind="phase_started"),
    )
    assert ran.statuses == {"one": "canceled", "two": "skipped"}
    assert ran.error("one") == "script/01 was interrupted"
    assert ran.facts("interrupted")[0]["by"] == "terminated"


@pytest.mark.parametrize(
    ("names", "error"), [(["one"], "interrupted in job.cleanup, after all jobs had passed"), ([], None)]
)
def test_a_run_that_is_interrupted_when_a_job_has_passed(make: Make, names: Sequence[str], error: str | None) -> None:
    cancel = Cancel()
    ran = make(TWO).run(
        *names, code=130, cancel=cancel, sinks=sink("job.cleanup", cancel.request, kind="phase_started")
    )
    assert ran.statuses.pop("one") == "success"
    assert ran.result.receipt.error == error
    ended = diagnosis_of(ran.reading).ended_by
    assert ended is not None
    assert (ended.says == error) == bool(error)


def test_the_first_failure_stops_the_others_on_request(make: Make) -> None:
    project = make("""stages: [a]
slow: {stage: a, script: ['echo x >"$SEEN"; sleep 60']}
fast: {stage: a, script: ['until test -e "$SEEN"; do sleep 0.01; done; exit 3']}
""")
    ran = project.run(code=1, fail_fast=True, jobs=2, var=[f"SEEN={project.home}/seen"])
    assert ran.statuses == {"slow": "canceled", "fast": "failure"}
    assert ran.facts("interrupted") == []
    assert ran.reading.fold.status == "failure"


# -- what a finished run says -----------------------------------------------------------------------------------------


def test_the_record_says_what_was_run_and_where(make: Make) -> None:
    ran = make(TWO).run()
    started = ran.reading.fold.started
    assert started["repo_root"] == str(Path.cwd())
    assert started["workflow_path"] == ".loom/workflow.yml"
    assert started["mount_mode"] == "auto"
    assert started["parent_run_id"] is None
    assert started["logs_dir"] == str(ran.reading.paths.logs)
    identity = json.loads(ran.reading.paths.identity.read_text())
    assert (identity["run_id"], identity["workspace"]) == (ran.result.receipt.run_id, str(ran.workspace))
    assert (identity["pid"], identity["child_of"], identity["job_workspaces"]) == (os.getpid(), None, {})
    assert "detached" not in identity
    shape = ran.facts("plan_resolved")[0]
    assert [job["id"] for job in shape["jobs"]] == ["one", "two"]
    assert shape["jobs"][0]["steps"] == [{"id": "script/01", "command": "echo one"}]
    assert (shape["stages"], shape["left_out"]) == (["a", "b"], [])
    assert ran.facts("snapshot_taken")[0]["path"] == str(ran.workspace)
    assert ran.result.receipt.exit_code == 0
    assert ran.result.receipt_path.is_file()
    assert (ran.workspace / ".loom" / ".runtime").exists()
    finished = ran.facts("run_finished")[0]
    assert (finished["status"], finished["exit_code"], finished["error"]) == ("success", 0, None)
    assert 0 < finished["duration_ms"] < 60_000
    assert not ran.reading.paths.diagnosis.exists()


def test_jobs_count_where_they_run(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    project = make(TWO)
    run, tools = project.planned(jobs=3)
    (job, _) = run.plan.jobs
    assert tools.lanes(job) == {"": 3}
    assert tools.lanes(replace(job, pool=Pool(name="p", provider="kubernetes", jobs=2))) == {"pool p": 2}
    assert tools.lanes(replace(job, pool=Pool(name="p", provider="kubernetes"))) == {"": 3}
    far, tools = project.planned(on="far", jobs=7)
    assert tools.lanes(far.plan.jobs[0]) == {"far": 7}
    assert project.planned(on="far")[1].lanes(far.plan.jobs[0]) == {"far": JOBS_ELSEWHERE}
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert project.planned()[1].lanes(job) == {"": 5}


def test_the_jobs_that_start_first(make: Make) -> None:
    plan = (
        make("""stages: [a, b]
now: {stage: a, script: 'true'}
also: {stage: a, script: 'true', when: always}
failed: {stage: a, script: 'true', when: on_failure}
manual: {stage: a, script: 'true', when: manual}
needs: {stage: b, script: 'true', needs: [now]}
free: {stage: b, script: 'true', needs: []}
later: {stage: b, script: 'true'}
""")
        .planned()[0]
        .plan
    )
    assert [job.id for job in first_jobs(plan, 10)] == ["now", "also", "free"]
    assert [job.id for job in first_jobs(plan, 2)] == ["now", "also"]


def test_a_plan_that_is_saved_is_the_plan_that_ran(make: Make) -> None:
    from loom.record.run import load_run

    ran = make(TWO).run(mount_mode="bind_mount", grace="3s")
    saved = load_run(ran.reading.paths.plan)
    assert [job.id for job in saved.plan.jobs] == ["one", "two"]
    assert (saved.mount_mode.value, saved.grace_s, saved.container, saved.isolated) == ("bind_mount", 3.0, False, False)
    assert saved.variables["CI_PIPELINE_SOURCE"] == "push"


def test_a_diagnosis_that_can_not_be_written_leaves_the_receipt(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr("loom.analysis.evidence.diagnoses_at_end", broken)
    ran = make(TWO.replace("echo one", "exit 3")).run(code=1)
    assert ran.result.diagnosis is None
    assert ran.result.receipt.status == "failure"


def test_each_failed_job_has_a_diagnosis_and_the_first_is_the_runs(make: Make) -> None:
    ran = make("stages: [a]\none: {stage: a, script: exit 3}\ntwo: {stage: a, script: exit 4}\n").run(code=1, jobs=1)
    assert ran.result.diagnosis is not None
    assert ran.result.diagnosis.job_id == "one"
    assert json.loads(ran.reading.paths.diagnosis.read_text())["job_id"] == "one"
    assert json.loads(ran.reading.paths.job_diagnosis("two").read_text())["job_id"] == "two"
    assert not ran.reading.paths.job_diagnosis("one").exists()
