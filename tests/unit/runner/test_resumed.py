"""Runs that go on from an earlier one: what they take over, where jobs continue, and what the record says of it."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from loom.commands.again import resume
from loom.commands.again.rerun import rerun as rerun_command
from loom.errors import RequestError
from loom.record import past_run
from loom.status import JobResult, Status

from .conftest import Make, Project, Ran

WORKFLOW = """stages: [a, b, c]
first: {stage: a, script: ['echo made >made; echo V=1 >r.env'], artifacts: {paths: [made], reports: {dotenv: r.env}}}
middle:
  stage: b
  cache: {key: k, paths: [store]}
  script:
    - echo "HANDED=on" >>"$LOOM_ENV"; echo "step one"
    - echo "$HANDED $V $(cat made)"; test -e repaired
    - echo "step three"
  artifacts: {paths: [repaired]}
last: {stage: c, script: ['cat made repaired; echo $V']}
"""


def resumed(project: Project, from_step: str | None = None, **options: Any) -> Ran:
    given = dict.fromkeys(("stream", "jobs", "keep", "sync", "var")) | {
        "quiet": True,
        "stop_at": None,
        "trust": True,
    }
    code = resume.resume(None, from_step=from_step, **{**given, **options})
    ran = project.last()
    assert ran.code == code
    return ran


def rerun(project: Project, **options: Any) -> Ran:
    given = {"failed": False, "fresh": False, "stream": None, "quiet": True, "keep": None, "trust": True}
    code = rerun_command(None, **{**given, **options})
    ran = project.last()
    assert ran.code == code
    return ran


def test_a_job_goes_on_in_its_kept_session_and_the_jobs_after_it_follow(make: Make) -> None:
    project = make(WORKFLOW)
    before = project.run(on="far", keep="on-failure", code=1)
    assert before.statuses == {"first": "success", "middle": "failure", "last": "skipped"}
    (directory,) = (project.home / "far").iterdir()
    (directory / "files" / "repaired").write_text("by hand\n")
    ran = resumed(project)
    assert ran.statuses == {"middle": "success", "last": "success"}
    assert [unit.step for unit in ran.reading.units("middle") if unit.step] == ["script/02", "script/03"]
    assert ran.lines("middle", "script/02") == ["on 1 made"]
    assert ran.lines("last") == ["made", "by hand", "1"]
    assert list((project.home / "far").iterdir()) == []
    (reused,) = ran.facts("results_reused")
    assert reused["jobs"]["first"]["status"] == "success"
    assert reused["jobs"]["first"]["run_id"] == before.reading.run_id
    assert Path(reused["jobs"]["first"]["archive"]) == before.reading.paths.artifacts_archive("first")
    (steps,) = ran.facts("steps_reused")
    assert steps["resumed"] is True
    assert [one["job_id"] for one in steps["jobs"]] == ["first", "middle"]
    assert ran.reading.fold.started["parent_run_id"] == before.reading.run_id
    assert ran.workspace == before.workspace
    assert ran.facts("cache_keys", "middle") == [{"keys": ["k"]}]
    assert ran.lines("middle", "cache_restore") == []
    assert ran.facts("handed_on", "middle")[0]["step"] == ""
    past = past_run.PastRun(ran.reading.entry)
    assert past.result_of("first") == JobResult(status=Status.SUCCESS, allowed_failure=False, exit_code=None)
    assert past.archive_of("first") == before.reading.paths.artifacts_archive("first")
    assert past.run_of("first") == before.reading.run_id
    assert past.run_of("middle") == ran.reading.run_id


def test_a_resumed_job_that_fails_is_kept_again_and_not_tried_again_since_its_session_is_the_only_one(
    make: Make,
) -> None:
    project = make(WORKFLOW.replace("  stage: b\n", "  stage: b\n  retry: 1\n"))
    before = project.run(on="far", keep="on-failure", code=1)
    assert [unit.attempt for unit in before.reading.units("middle") if unit.step][-1] == 2
    ran = resumed(project)
    assert ran.statuses == {"middle": "failure", "last": "skipped"}
    assert len(ran.facts("session_kept", "middle")) == len(list((project.home / "far").iterdir())) == 1
    assert [(unit.attempt, unit.step) for unit in ran.reading.units("middle") if unit.step] == [(1, "script/02")]


def test_without_a_kept_session_a_job_goes_on_in_its_saved_files(make: Make) -> None:
    project = make(WORKFLOW.replace("test -e repaired", 'test -e "$REPAIRED"; touch repaired'))
    project.run(code=1, var=[f"REPAIRED={project.home}/repaired"], keep="never")
    (project.home / "repaired").touch()
    ran = resumed(project)
    assert ran.statuses == {"middle": "success", "last": "success"}
    assert ran.lines("middle", "script/02") == ["on 1 made"]


def test_the_failed_jobs_run_again_from_their_start(make: Make) -> None:
    project = make(WORKFLOW.replace("test -e repaired", 'test -e "$REPAIRED"; touch repaired'))
    project.run(code=1, var=[f"REPAIRED={project.home}/repaired"])
    (project.home / "repaired").touch()
    ran = rerun(project, failed=True)
    assert ran.statuses == {"middle": "success", "last": "success"}
    assert ran.lines("middle") == ["step one"]
    assert ran.lines("middle", "script/02") == ["on 1 made"]
    assert ran.lines("middle", "artifact_restore")[0].startswith("first: 1 file")
    assert ran.facts("steps_reused")[0]["resumed"] is False
    everything = rerun(project)
    assert everything.statuses == {"first": "success", "middle": "success", "last": "success"}


def test_a_job_that_failed_and_did_not_run_again_fails_the_run(make: Make) -> None:
    project = make("""stages: [a]
one: {stage: a, script: exit 3}
two: {stage: a, script: 'test -e "$REPAIRED"'}
""")
    before = project.run(code=1, var=[f"REPAIRED={project.home}/repaired"])
    (project.home / "repaired").touch()
    ran = resumed(project, "two")
    assert ran.statuses == {"two": "success"}
    assert ran.code == 1
    assert ran.reading.receipt().error == f"one: failed in run {before.reading.run_id}, and did not run again"
    past = past_run.PastRun(ran.reading.entry)
    assert past.failed() == ["one"]
    assert past.one_job().run.run_id == past.job("one").run.run_id == before.reading.run_id
    assert past.job("two").run.run_id == ran.reading.run_id
    again = rerun(project, failed=True)
    assert again.statuses == {"one": "failure"}
    assert again.reading.receipt().error == "one: script/01 failed with exit code 3"
    shutil.rmtree(before.reading.paths.root)
    assert past_run.PastRun(ran.reading.entry).job("one").run.run_id == ran.reading.run_id


def test_a_job_may_be_named_by_its_name_where_that_is_enough(make: Make) -> None:
    ran = make("""stages: [a]
one: {stage: a, script: 'true', parallel: {matrix: [{N: ["1", "2"]}]}}
two: {stage: a, script: 'true', parallel: {matrix: [{N: ["1"]}]}}
""").run()
    past = past_run.PastRun(ran.reading.entry)
    assert past.job("two").job.id == "two.1"
    for name in ("one", "three"):
        with pytest.raises(RequestError, match=f"has no job '{name}'") as error:
            past.job(name)
        assert error.value.code == "JOB_UNKNOWN"
        assert error.value.hint == "its jobs: one.1, one.2, two.1"
