"""Which jobs' sessions and files stay after the run, and what a later run finds in the record of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from loom.errors import ProviderError
from loom.record import past_run
from loom.record.step_outputs import restored
from loom.runner import views
from loom.runner.hooks import keeps
from loom.status import Status
from tests.unit.providers.far_provider import FarProvider

from .conftest import Make, Project, on

WORKFLOW = "stages: [a]\none: {{stage: a, script: ['echo x >left; {end}']{more}}}\n"


def workflow(end: str = "exit 3", more: str = "") -> str:
    return WORKFLOW.format(end=end, more=more)


@pytest.mark.parametrize("status", list(Status))
def test_the_setting_decides_by_the_result(status: Status) -> None:
    failed = status in (Status.FAILURE, Status.TIMED_OUT, Status.ERROR)
    for by_hand in (False, True):
        assert not keeps("never", status, by_hand=by_hand)
        assert keeps("always", status, by_hand=by_hand)
    assert keeps("on-failure", status, by_hand=False) == failed
    assert keeps("on-failure", status, by_hand=True) == (failed or status is Status.CANCELED)


@pytest.mark.parametrize(
    ("keep", "end", "kept"),
    [
        ("never", "exit 3", False),
        ("on-failure", "exit 3", True),
        ("on-failure", "exit 0", False),
        ("always", "exit 0", True),
    ],
)
def test_a_session_is_kept(make: Make, keep: str, end: str, kept: bool) -> None:
    project = make(workflow(end))
    ran = project.run(on="far", keep=keep, keep_for="2h", code=None)
    places = list((project.home / "far").iterdir())
    assert len(places) == kept
    facts = ran.facts("session_kept", "one")
    assert len(facts) == kept
    assert list(ran.result.kept) == ["one"] * kept
    if kept:
        (fact,) = facts
        assert (fact["container_id"], fact["container_name"]) == (places[0].name, places[0].name)
        assert (fact["step"], fact["paused"], fact["bytes"]) == ("script/01" if "3" in end else None, False, 0)
        lasts = datetime.fromisoformat(fact["expires_at"]) - datetime.fromisoformat(fact["kept_at"])
        assert 7190 < lasts.total_seconds() < 7210
        assert float((places[0] / "kept").read_text()) == pytest.approx(
            datetime.fromisoformat(fact["expires_at"]).timestamp(), abs=1
        )


def test_only_the_last_attempts_session_is_kept(make: Make) -> None:
    project = make(workflow(more=", retry: 1"))
    ran = project.run(on="far", keep="on-failure", code=1)
    assert len(ran.facts("session_kept", "one")) == 1
    assert len(list((project.home / "far").iterdir())) == 1


def replaced(project: Project, **methods: Any) -> Any:
    """A far provider with other methods in its sessions."""

    class Other(FarProvider):
        @contextmanager
        def open(self, *arguments: Any) -> Iterator[Any]:
            with super().open(*arguments) as session:
                for name, method in methods.items():
                    setattr(session, name, method)
                yield session

    return on(Other(project.home / "far"), "far")


def test_a_session_that_is_too_large_is_not_kept(make: Make) -> None:
    project = make(workflow())
    ran = project.run(
        on="far", keep="on-failure", keep_max_size="1GB", code=1, tools=replaced(project, size=lambda: 2_000_000_000)
    )
    assert ran.warnings("one") == ["not kept: its container takes 2.0 GB, and at most 1.1 GB are kept (keep_max_size)"]
    assert ran.facts("session_kept", "one") == []
    assert ran.statuses == {"one": "failure"}


def test_a_session_of_the_largest_size_is_kept(make: Make) -> None:
    project = make(workflow())
    ran = project.run(
        on="far", keep="on-failure", keep_max_size="1GB", code=1, tools=replaced(project, size=lambda: 1 << 30)
    )
    assert ran.facts("session_kept", "one")[0]["bytes"] == 1 << 30


def test_a_session_that_can_not_be_kept_leaves_the_jobs_files(make: Make) -> None:
    def keep(_: float) -> None:
        raise ProviderError("the engine is gone")

    project = make(workflow())
    ran = project.run(on="far", keep="on-failure", code=1, tools=replaced(project, keep=keep))
    assert ran.warnings("one") == ["not kept: the engine is gone"]
    opened = ran.job("one").facts["session_opened"]
    assert Path(opened["workspace"]).parent.name == "one"
    assert (Path(opened["workspace"]) / "left").read_text() == "x\n"


# -- files of a volume ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("end", "saved"), [("exit 3", True), ("exit 0", False)])
def test_the_files_of_a_failed_job_are_laid_out(make: Make, end: str, saved: bool) -> None:
    ran = make(workflow(end)).run(on="far", keep="never", code=None)
    laid_out = Path(ran.job("one").facts["session_opened"]["workspace"])
    assert (laid_out / "left").exists() == saved
    assert ran.warnings("one") == []


@pytest.mark.slow
def test_the_files_of_a_job_that_ran_out_of_time_are_laid_out(make: Make) -> None:
    ran = make(workflow("exec sleep 60", more=", timeout: 3s")).run(on="far", keep="never", code=4)
    assert (Path(ran.job("one").facts["session_opened"]["workspace"]) / "left").exists()


def test_files_that_are_too_many_bytes_are_a_warning(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "MAX_SAVED", 1000)
    ran = make(workflow()).run(on="far", keep="never", code=1)
    assert ran.warnings("one") == [
        "what the job left could not be saved: they are larger than 1.0 kB; --keep on-failure keeps them"
    ]
    assert not Path(ran.job("one").facts["session_opened"]["workspace"]).exists()


def test_a_job_on_this_machine_leaves_its_files_where_they_are(make: Make) -> None:
    ran = make(workflow("exit 3")).run(code=1)
    assert (Path(ran.job("one").facts["session_opened"]["workspace"]) / "left").exists()


def test_a_new_layout_replaces_the_old_one_or_nothing_changes(tmp_path: Path) -> None:
    target = tmp_path / "jobs" / "one" / "workspace"

    def fill(new: Path) -> None:
        new.mkdir()
        (new / "file").write_text(text)

    for text in ("first", "second"):
        assert views.laid_out(target, fill) == target
        assert (target / "file").read_text() == text

    def failing(new: Path) -> None:
        new.mkdir()
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        views.laid_out(target, failing)
    assert (target / "file").read_text() == "second"
    views.laid_out(target, fill)
    assert [path.name for path in target.parent.iterdir()] == ["workspace"]
    assert target.parent.stat().st_mode & 0o777 == 0o700


# -- what a later run reads -------------------------------------------------------------------------------------------


def past(project: Project, job: str = "one") -> past_run.PastJob:
    return past_run.PastRun(project.store.find("last", repo_root=project.root)).job(job)


def test_a_later_run_finds_the_job_its_session_and_its_step(make: Make) -> None:
    project = make(workflow(more=", cache: {key: k, paths: [store]}"))
    ran = project.run(on="far", keep="on-failure", code=1)
    job = past(project)
    kept = ran.facts("session_kept", "one")[0]
    assert (job.failing_step, job.last_step, job.kept_id) == ("script/01", "script/01", kept["container_id"])
    assert job.expires_at == datetime.fromisoformat(kept["expires_at"])
    assert (job.cache_keys, job.ran_as_root, job.command_user) == (("k",), False, "")
    assert job.step(None).id == job.step("1").id == job.step("script/1").id == "script/01"
    view = job.view
    assert view is not None
    assert (view.mode.value, view.workspace, view.run_workspace) == ("ephemeral_volume", ran.workspace, ran.workspace)
    assert view.directory is not None
    assert view.files == view.directory / "workspace"
    assert not job.shares_workspace
    assert job.manifest == job.run.entry.paths.snapshot
    view.brought.parent.mkdir(parents=True, exist_ok=True)
    view.brought.write_text("{}")
    assert job.manifest == view.brought
    assert job.image is None
    result = job.run.result_of("one")
    assert result is not None
    assert (result.status, result.exit_code, result.allowed_failure) == (Status.FAILURE, 3, False)


def test_a_job_alone_has_the_workspace_of_the_run(make: Make) -> None:
    project = make(workflow())
    ran = project.run(code=1)
    job = past(project)
    assert job.view is not None
    assert (job.shares_workspace, job.view.files, job.view.directory) == (True, ran.workspace, None)
    assert job.view.brought == ran.workspace.with_name(f"{ran.workspace.name}.jobs") / ".brought.json"
    assert (job.kept_id, job.expires_at, job.kept) == ("", None, {})


def test_the_outputs_of_the_steps_before_one_are_those_of_its_attempt(make: Make) -> None:
    text = """stages: [a]
one:
  stage: a
  retry: 1
  script:
    - echo "A=$LOOM_ATTEMPT" >>"$LOOM_ENV"
    - echo "B=2" >>"$LOOM_ENV"
    - exit 3
"""
    project = make(text)
    project.run(code=1)
    job = past(project)
    found = [restored(job.handed_on(job.step(number)), {})[0] for number in ("1", "2", "3")]
    assert found == [{}, {"A": "2"}, {"A": "2", "B": "2"}]


SEVERAL = """stages: [a, b]
good: {stage: a, script: 'true'}
bad: {stage: a, script: exit 3}
allowed: {stage: a, script: exit 4, allow_failure: true}
later: {stage: b, script: 'true'}
"""


def test_a_past_run_knows_what_failed_or_never_ran(make: Make) -> None:
    project = make(SEVERAL)
    project.run(code=1)
    run = past(project, "bad").run
    assert run.failed() == ["bad", "later"]
    assert run.one_job().job.id == "bad"
    results = {job: run.result_of(job) for job in ("good", "bad", "allowed", "later")}
    assert {job: result and result.status.value for job, result in results.items()} == {
        "good": "success",
        "bad": "failure",
        "allowed": "failure",
        "later": "skipped",
    }
    assert results["allowed"] is not None
    assert results["allowed"].allowed_failure
    assert run.repo_root == project.root
    assert run.workspace.is_dir()
    assert run.snapshot is not None
    assert run.archive_of("good") == run.entry.paths.artifacts_archive("good")
    assert run.run_of("good") == run.run_id


def test_after_a_success_the_only_job_or_the_kept_one_is_meant(make: Make) -> None:
    project = make(SEVERAL)
    project.run("good")
    assert past(project, "good").run.one_job().job.id == "good"
    project.run("good", "allowed")
    with pytest.raises(Exception, match="no failed job") as error:
        past(project, "good").run.one_job()
    assert "good, allowed" in str(getattr(error.value, "hint", ""))
