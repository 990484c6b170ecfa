"""The pure parts of going back into a run: what is recorded of variables and plans, and what is made of it again."""

import base64
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from loom.errors import RecordError, RequestError
from loom.plan.model import (
    AllowFailure,
    Artifacts,
    Cache,
    CacheKeyFiles,
    Image,
    Job,
    MountMode,
    Plan,
    Resolved,
    Retry,
    Secret,
    Step,
    WorkspaceMode,
)
from loom.providers.interactive import options_of
from loom.record.facts import COMMAND_USER, NOT_KEPT
from loom.record.fold import JobState, RunFold
from loom.record.past_run import PastJob, PastRun, step_named
from loom.record.request import Request
from loom.record.run import Resumed, Run, TakenOver, View, load_run
from loom.record.step_outputs import recorded, restored
from loom.runner.hooks import keeps
from loom.status import JobResult, Status
from loom.util import jsons
from loom.util.masking import Masker

JOB = Job(
    id="unit.1",
    name="unit",
    stage="test",
    steps=(
        Step(phase="before_script", number=1, script="true"),
        Step(phase="script", number=1, script="true"),
        Step(phase="script", number=2, script="false"),
    ),
    provider="docker",
    image=Image(name="debian:trixie-slim"),
    retry=Retry(max=2),
    allow_failure=AllowFailure(exit_codes=frozenset({3, 1})),
    artifacts=Artifacts(paths=("out",), reports={"junit": ("r.xml",)}),
    cache=(Cache(paths=("deps",), key=CacheKeyFiles(files=("lock",))), Cache(paths=("x",), key="k")),
    secrets=(Secret(name="TOKEN", ref="env://TOKEN"),),
    matrix={"PY": "3.11"},
)
SECRETS = {"TOKEN": b"hunter2-correct"}


def masker() -> Masker:
    return Masker({"TOKEN": "hunter2-correct"})


@pytest.mark.parametrize(
    "value",
    ["plain", "", "a\nb", "x hunter2-correct y hunter2-correct", "caf\u00e9", "\udcff\udc80 hunter2-correct"],
)
def test_variables_come_back_as_they_were_and_no_secret_is_recorded(value: str) -> None:
    fact = recorded({"NAME": value}, SECRETS, masker())
    assert "hunter2" not in str(fact)
    assert all(b"hunter2" not in base64.b64decode(text) for text in fact["exact_b64"].values())
    assert restored(fact, SECRETS) == ({"NAME": value}, [])


def test_a_secret_in_a_form_that_cannot_be_put_back_is_named_and_not_set() -> None:
    encoded = base64.b64encode(b"user:hunter2-correct").decode()
    fact = recorded({"AUTH": encoded, "OTHER": "fine"}, SECRETS, masker())
    assert fact["lost"] == ["AUTH"]
    assert restored(fact, SECRETS) == ({"OTHER": "fine"}, ["AUTH"])


def test_a_plan_reads_back_as_it_was_written(tmp_path: Path) -> None:
    run = Run(
        run_id="17",
        command=("loom", "run"),
        request=Request.of({"names": ["build"], "jobs": 2, "workflow": Path("w.yml")}),
        repo_root=Path("/there"),
        plan=Plan(workflow_path=".loom/workflow.yml", stages=("test",), jobs=(JOB,)),
        variables={"CI": "true"},
        mount_mode=WorkspaceMode.OVERLAY,
        read_only_mounts=(Path("/srv/objects"),),
        container=True,
        starts={
            "a": TakenOver(
                archive=Path("/a.tar.gz"), run_id="16", result=JobResult(status=Status.FAILURE, outputs={"x": "y"})
            ),
            "b": Resumed(
                archive=Path("/b"), step="script/02", steps={"script/01": 1.5}, handed_on={"variables": {"A": "b"}}
            ),
        },
    )
    (tmp_path / "plan.json").write_bytes(jsons.encode_file(run, sort=True))
    assert load_run(tmp_path / "plan.json") == run


def test_a_damaged_plan_is_told_with_its_position(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"plan": 3}')
    with pytest.raises(RecordError, match=r"/plan\.json: this plan can't be read"):
        load_run(tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("wanted", "step"),
    [
        ("2", "script/02"),
        ("script/2", "script/02"),
        ("script/02", "script/02"),
        ("before_script/1", "before_script/01"),
    ],
)
def test_steps_are_named_by_number_or_id(wanted: str, step: str) -> None:
    assert step_named(JOB, wanted).id == step


@pytest.mark.parametrize("wanted", ["3", "0", "x", "after_script/1", "script/", "/"])
def test_a_step_that_is_not_there_names_those_that_are(wanted: str) -> None:
    with pytest.raises(RequestError) as caught:
        step_named(JOB, wanted)
    assert "script/02" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("shell", "options"),
    [
        (("sh", "-e"), []),
        (("bash", "-eo", "pipefail"), ["-o", "pipefail"]),
        (("bash", "--noprofile", "--norc", "-euo", "pipefail", "{0}"), ["-u", "-o", "pipefail"]),
        (("bash", "-o", "errexit", "-x"), ["-x"]),
        (("sh", "+e", "-c", "x"), []),
        (("python3",), []),
    ],
)
def test_an_interactive_shell_has_the_options_of_the_step_but_not_errexit(
    shell: tuple[str, ...], options: list[str]
) -> None:
    assert options_of(shell) == options


def test_what_is_kept_by_policy() -> None:
    def kept(when: str, *, by_hand: bool) -> list[Status]:
        return [status for status in Status if keeps(when, status, by_hand=by_hand)]

    assert kept("never", by_hand=True) == []
    assert kept("on-failure", by_hand=False) == [Status.FAILURE, Status.ERROR, Status.TIMED_OUT]
    assert set(kept("on-failure", by_hand=True)) == {*kept("on-failure", by_hand=False), Status.CANCELED}
    assert kept("always", by_hand=False) == list(Status)


def past(
    *, lists: dict[str, list[Any]] | None = None, image: bool = True, receipt: object = None, **facts: Any
) -> PastJob:
    """A job of a run with these facts."""
    state = JobState("unit.1", {}, facts=facts, lists=lists or {})
    fold = SimpleNamespace(jobs={"unit.1": state}, last=SimpleNamespace(ts="2026-01-02T03:04:05+00:00"))
    run = SimpleNamespace(fold=fold, workspace=Path("/w/run"), entry=SimpleNamespace(receipt=receipt))
    return PastJob(run=cast("Any", run), job=JOB if image else replace(JOB, image=None))


def test_what_was_kept_of_a_job_or_why_it_was_not() -> None:
    nothing = past()
    assert (nothing.kept, nothing.not_kept, nothing.kept_id, nothing.expires_at, nothing.image) == (
        {},
        "",
        "",
        None,
        None,
    )
    refused = past(lists={"warning": [{"text": "else"}, {"text": f"{NOT_KEPT}no room"}, {"text": f"{NOT_KEPT}later"}]})
    assert refused.not_kept == "no room"
    kept = past(
        session_kept={
            "container_id": "c",
            "kept_at": "2026-01-02T03:04:06+00:00",
            "expires_at": "2026-01-03T03:04:06+00:00",
        },
        session_opened={"container_id": "b", "workspace": "/w/run.jobs/a/workspace"},
        image_resolved={"name": "n", "id": "sha256:1"},
        cache_keys={"keys": ["k"]},
    )
    assert (kept.kept_id, kept.kept_at, kept.expires_at) == (
        "c",
        datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC),
        datetime(2026, 1, 3, 3, 4, 6, tzinfo=UTC),
    )
    assert kept.image == Resolved(name="n", image_id="sha256:1", digest="")
    assert past(image_resolved={"name": "n", "id": "i", "digest": "d"}).image == Resolved(
        name="n", image_id="i", digest="d"
    )
    assert (kept.cache_keys, nothing.cache_keys) == (("k",), ())
    assert past(session_opened={}).kept_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), (
        "jobs share the files until its end"
    )
    own = past(session_opened={"workspace": "/w/run.jobs/a/workspace"})
    assert own.kept_at is None
    own.state.end = cast("Any", SimpleNamespace(ts="2026-01-02T03:04:07+00:00"))
    assert own.kept_at == datetime(2026, 1, 2, 3, 4, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("job", "may"),
    [
        (past(), True),
        (past(receipt=1), False),
        (past(receipt=1, session_kept={"container_id": "c"}), True),
        (past(receipt=1, session_opened={"kept": "adopted"}), True),
        (past(receipt=1, session_opened={"kept": "other"}), False),
        (past(image=False), False),
    ],
)
def test_a_job_may_still_have_its_container(job: PastJob, may: bool) -> None:
    assert job.may_be_kept is may


@pytest.mark.parametrize(
    ("image", "opened", "expected"),
    [
        (True, {}, View(mode=MountMode.BIND, workspace=Path("/w/run"))),
        (False, {"mount_mode": "overlay"}, View(mode=MountMode.BIND, workspace=Path("/w/run"))),
    ],
)
def test_the_view_of_a_job_is_that_of_its_record(image: bool, opened: dict[str, str], expected: View) -> None:
    job = past(image=image, session_opened=opened)
    assert (job.view, job.shares_workspace) == (expected, True)
    assert past().view is None
    assert (job.ran_as_root, past(session_opened={"user": "0:0"}).ran_as_root) == (False, True)
    assert past(session_opened={COMMAND_USER: "7"}).command_user == "7"


@pytest.mark.parametrize(
    ("jobs", "meant"),
    [
        ({"a": {}}, "a"),
        ({"a": {}, "b": {}}, ""),
        ({"a": {"session_kept": {}}, "b": {"session_opened": {"kept": "adopted"}}}, "a"),
        ({"a": {"session_opened": {}}, "b": {"session_opened": {"kept": "adopted"}}, "c": {}}, "b"),
        ({"a": {"session_opened": {"kept": "adopted"}}, "b": {"session_opened": {"kept": "adopted"}}}, ""),
    ],
)
def test_the_job_that_a_command_means_is_the_only_one_of_its_kind(jobs: dict[str, dict[str, Any]], meant: str) -> None:
    plan = Plan(workflow_path="w", stages=("test",), jobs=tuple(replace(JOB, id=name, name=name) for name in jobs))
    fold = RunFold()
    fold.jobs = {name: JobState(name, {}, facts=facts) for name, facts in jobs.items()}
    run = PastRun.__new__(PastRun)
    vars(run).update(entry=SimpleNamespace(run_id="r"), planned=SimpleNamespace(plan=plan), fold=fold, _before={})
    if meant:
        assert run.one_job().job.id == meant
    else:
        with pytest.raises(RequestError, match="run r has no failed job: name the one that you mean"):
            run.one_job()
