"""Runs whose jobs go on in their containers without loom: what is handed over, when loom may leave, and how another one goes on."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from msgspec.structs import replace

from loom import providers
from loom.analysis.evidence import diagnosis_of
from loom.commands.again import attach
from loom.errors import EngineUnavailable, RequestError
from loom.plan.model import MountMode
from loom.providers.base import Capabilities, Setup
from loom.providers.command import Command
from loom.record.reader import Reading
from loom.record.store import Store
from loom.status import Exit
from loom.util import masking
from tests.unit.providers.far_provider import FarKept, FarProvider, FarSession

from .conftest import Make, Project, Ran

WORKFLOW = """stages: [a, b]
one: {stage: a, script: ['echo one', 'echo end'], after_script: ['echo "$CI_JOB_STATUS"']}
two: {stage: a, script: ['echo two; echo x >x'], artifacts: {paths: [x]}}
last: {stage: b, script: ['cat x']}
"""


class Detached(FarSession):
    handed: ClassVar[list[tuple[str, list[str], dict[bool, list[str]]]]] = []
    """What was handed over: the session, its commands, those after them by success."""

    def hand_over(
        self,
        steps: Sequence[Command],
        after: Mapping[bool, Sequence[Command]],
        save: Callable[[bytes], None],
    ) -> None:
        save(b"token of " + self._request.job_id.encode())
        self.handed.append(
            (
                self._request.job_id,
                [step.script for step in steps],
                {
                    ok: [f"{step.script} {step.environment['CI_JOB_STATUS']}" for step in some]
                    for ok, some in after.items()
                },
            )
        )


class Ended(Detached):
    """Its steps ended before anybody listened again."""

    def run(self, *given: Any) -> Exit:
        return replace(super().run(*given), took_s=3600.0)


class Waiting(FarKept):
    """A session in which a job goes on."""

    attached: ClassVar[list[bytes]] = []

    @contextmanager
    def attach(self, saved: bytes, request: Any, *_: Any) -> Iterator[FarSession]:
        self.attached.append(saved)
        yield Ended(self._place, request)


class Detaching(FarProvider):
    capabilities = Capabilities(mounts=frozenset({MountMode.VOLUME}), isolated=True, detachable=True)

    @contextmanager
    def _session(self, directory: Path, request: Any) -> Iterator[FarSession]:
        assert request.detached
        yield Detached(directory, request)

    def find(self, run_id: str, job_id: str, kept_id: str = "", *, user: str = "") -> FarKept | None:
        found = super().find(run_id, job_id, kept_id, user=user)
        return None if found is None else Waiting(found._place, found._session)


def provider(setup: Setup) -> Detaching:
    return Detaching(Path(setup.environ["FAR"]))


@pytest.fixture(autouse=True)
def detachable(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(providers.MODULES, "far", __name__)
    monkeypatch.setattr(Detached, "handed", [])
    monkeypatch.setattr(Waiting, "attached", [])


def detached(project: Project, leave: Callable[..., None], **options: Any) -> Ran:
    return project.run(on="far", detach=True, tools=lambda tools: replace(tools, leave=leave), **options)


def test_jobs_are_handed_over_whole_and_loom_leaves_when_all_that_could_start_are(make: Make) -> None:
    project = make(WORKFLOW)
    left: list[int] = []
    ran = detached(project, lambda lost="": left.append(len(Detached.handed)), jobs=2)
    assert set(ran.statuses.values()) == {"success"}
    by_job = {job: (steps, after) for job, steps, after in Detached.handed}
    assert by_job["one"] == (
        ["echo one", "echo end"],
        {True: ['echo "$CI_JOB_STATUS" success'], False: ['echo "$CI_JOB_STATUS" failed']},
    )
    assert by_job["last"] == (["cat x"], {True: [], False: []})
    assert ran.reading.paths.handed_over("two", 1).read_bytes() == b"token of two"
    assert 3 in left
    assert json.loads(ran.reading.paths.identity.read_text())["detached"] is True


def test_a_lost_connection_is_a_reason_to_leave(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any) -> Any:
        raise EngineUnavailable("the cluster is gone", code="CLUSTER_UNAVAILABLE")

    monkeypatch.setattr(Detached, "run", lost)
    said: list[str] = []
    detached(make(WORKFLOW), lambda lost="": said.append(lost), code=3)
    assert any("the cluster is gone" in one for one in said)


def left_in(project: Project, ran: Ran, job: str) -> None:
    """Make the run one that was left while `job` ran."""
    paths = ran.reading.paths
    lines = paths.events.read_bytes().splitlines(keepends=True)
    ends = next(
        number
        for number, line in enumerate(lines)
        if (event := json.loads(line)).get("message") == "handed_over" and event["job_id"] == job
    )
    handed_over = json.loads(lines[ends])
    handed_over["data"]["after_ms"] = 9e6  # its image was large
    paths.events.write_bytes(b"".join([*lines[:ends], json.dumps(handed_over).encode() + b"\n"]))
    paths.handed_over("last", 1).unlink()
    paths.receipt.unlink()
    identity = json.loads(paths.identity.read_text())
    paths.identity.write_text(json.dumps({**identity, "pid": 2**22 - 1, "pid_started": "1"}))
    masking._known.clear()


def test_another_loom_goes_on_with_the_record(make: Make) -> None:
    project = make(WORKFLOW)
    ran = detached(project, lambda lost="": None, jobs=1)
    left_in(project, ran, "two")
    manifest = ran.reading.paths.logs / "jobs/one/manifest.json"
    manifest.unlink()  # the other loom had not got to that
    assert Store(project.home / "state").entry(ran.reading.run_id).state == "detached"
    assert not diagnosis_of(Reading(Store(project.home / "state").entry(ran.reading.run_id))).failed
    Detached.handed.clear()
    assert attach.attach(None, stream=None, quiet=True, jobs=None, trust=True) == 0
    again = project.last()
    assert manifest.is_file()
    assert again.reading.run_id == ran.reading.run_id
    assert again.statuses == {"one": "success", "two": "success", "last": "success"}
    assert Waiting.attached == [b"token of two"]
    assert [job for job, *_ in Detached.handed] == ["two", "last"]
    assert again.lines("two") == ["two"]
    assert again.lines("last") == ["x"]
    took = {
        (event.scope, event.phase_code): event.duration_ms
        for event in again.events
        if event.job_id == "two" and event.duration_ms is not None
    }
    assert round(took["step", "step.execute"]) == 3600_000
    assert 3600_000 <= took["job", "job.execution"] < 3660_000
    assert took["job", "pipeline.execute"] > took["job", "job.execution"] + 9e6
    assert [event.job_id for event in again.events if event.message == "job_finished"] == ["one", "two", "last"]
    assert len(again.facts("attached")) == 1
    assert (
        len([event for event in again.events if event.phase_code == "run.bootstrap" and event.kind == "phase_started"])
        == 1
    )
    numbers = [event.seq for event in again.events]
    assert numbers == sorted(set(numbers))
    assert again.workspace == ran.workspace
    assert again.events[0] == ran.events[0]
    with pytest.raises(RequestError, match="does not go on: its status is success"):
        attach.attach(None, stream=None, quiet=True, jobs=None, trust=True)


def test_the_attempt_after_one_that_went_on_begins_anew(make: Make) -> None:
    project = make(WORKFLOW.replace("two: {", "two: {retry: 1, ").replace("two; echo", "two; test ! -e x; echo"))
    left_in(project, detached(project, lambda lost="": None, jobs=1), "two")
    assert attach.attach(None, stream=None, quiet=True, jobs=None, trust=True) == 0
    assert Waiting.attached == [b"token of two"]
    assert project.last().job("two").attempts == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda ran: ran.workspace.rename(ran.workspace.with_name("away")),
            "is gone: jobs that have not started need it",
        ),
        (
            lambda ran: ran.reading.paths.events.write_bytes(ran.reading.paths.events.read_bytes().splitlines(True)[0]),
            "was left before its jobs began",
        ),
    ],
)
def test_a_run_that_nothing_can_go_on_with(make: Make, change: Callable[[Ran], Any], says: str) -> None:
    project = make(WORKFLOW)
    ran = detached(project, lambda lost="": None)
    left_in(project, ran, "two")
    change(ran)
    with pytest.raises(RequestError, match=says):
        attach.attach(None, stream=None, quiet=True, jobs=None, trust=True)
