"""The services of a run for its actions: when they start, for whom, and what they keep."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from loom.plan.late import Action, LateJob
from loom.plan.model import Job
from loom.record.events import PhaseCode
from loom.runner.attempt import Attempt
from loom.runner.results import NO_WAY, Results, take_over

from .conftest import Make
from .late import plans
from .late.plans import run, step


def job(job_id: str, *kinds: Any, **github: Any) -> Job:
    steps = tuple(step("x", kind=kind) for kind in kinds)
    late = LateJob(contexts={"github": github})
    return Job(id=job_id, name=job_id, stage="s", steps=steps, provider="docker", late=late)


class Told:
    """An attempt at a job, as far as the services need one."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.warnings: list[str] = []
        self.facts: list[tuple[str, Mapping[str, Any]]] = []

    def warn(self, text: str, code: object) -> None:
        self.warnings.append(text)

    def fact(self, name: str, data: Mapping[str, Any], code: PhaseCode) -> None:
        assert code is PhaseCode.JOB_EXECUTION
        self.facts.append((name, data))


def given(results: Results, told: Told, way: str | None = "127.0.0.1/8") -> Mapping[str, str]:
    return results.environment(cast(Attempt, told), lambda: way, {"A": b"the secret", "B": b"x"})


@pytest.fixture
def jobs() -> list[Job]:
    return [job("a", "node", workflow_ref="one"), job("b", "run", workflow_ref="two"), job("c", workflow_ref="one")]


@pytest.fixture
def results(tmp_path: Path, jobs: list[Job]) -> Results:
    made = Results(jobs=jobs, artifacts_of=lambda id_: tmp_path / id_, record=tmp_path, cache=None, most_bytes=1 << 20)
    yield made  # type: ignore[misc]
    made.close()


def test_each_attempt_has_a_token_of_its_own_while_it_runs(results: Results, jobs: list[Job]) -> None:
    first, second = Told(jobs[0]), Told(jobs[0])
    variables = given(results, first)
    assert sorted(variables) == [
        "ACTIONS_CACHE_SERVICE_V2",
        "ACTIONS_RESULTS_URL",
        "ACTIONS_RUNTIME_TOKEN",
        "ACTIONS_RUNTIME_URL",
    ]
    assert given(results, first) == variables
    other = given(results, second)
    assert other["ACTIONS_RUNTIME_TOKEN"] != variables["ACTIONS_RUNTIME_TOKEN"]
    assert other["ACTIONS_RESULTS_URL"] == variables["ACTIONS_RESULTS_URL"]
    results.ended(cast(Attempt, first))
    results.ended(cast(Attempt, first))
    assert given(results, first)["ACTIONS_RUNTIME_TOKEN"] != variables["ACTIONS_RUNTIME_TOKEN"]


def test_what_an_action_did_is_a_fact_of_its_attempt(results: Results, jobs: list[Job]) -> None:
    told = Told(jobs[0])
    given(results, told)
    assert results._server is not None
    (client,) = results._server._clients.values()
    client.tell("artifact", {"name": "a"})
    assert told.facts == [("artifact", {"name": "a"})]


@pytest.mark.parametrize("way", [None, "192.0.2.1/24"])
def test_a_job_without_a_way_is_told_once(results: Results, jobs: list[Job], way: str | None) -> None:
    told = Told(jobs[0])
    for _ in range(2):
        assert given(results, told, way) == {}
    assert [text.startswith(NO_WAY) for text in told.warnings] == [True]


def test_files_of_a_run_have_their_own_artifacts(results: Results) -> None:
    assert list(results._jobs_of("one")) == ["a", "c"]
    assert list(results._jobs_of("two")) == ["b"]


@pytest.mark.parametrize(
    ("event", "reads_only"),
    [
        ({}, False),
        ({"pull_request": {"head": {"repo": {"full_name": "o/r"}}, "base": {"repo": {"full_name": "o/r"}}}}, False),
        ({"pull_request": {"head": {"repo": {"full_name": "f/r"}}, "base": {"repo": {"full_name": "o/r"}}}}, True),
        ({"pull_request": {"head": {"repo": None}, "base": {"repo": {"full_name": "o/r"}}}}, True),
        ({"pull_request": "x"}, False),
        ("x", False),
    ],
)
def test_whose_pull_request_it_is(results: Results, event: Any, reads_only: bool) -> None:
    given(results, Told(job("a", "node", event=event)))
    assert results._server is not None
    (client,) = set(results._server._clients.values())
    assert client.read_only is reads_only


def test_a_job_that_resumes_has_what_its_earlier_steps_uploaded(tmp_path: Path) -> None:
    before, folder = tmp_path / "before", tmp_path / "now/artifacts"
    take_over(before, folder)
    assert not folder.exists()
    before.mkdir()
    (before / "one.zip").write_bytes(b"1")
    (before / "two.zip").write_bytes(b"2")
    folder.mkdir(parents=True)
    (folder / "two.zip").write_bytes(b"own")
    take_over(before, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"one.zip": b"1", "two.zip": b"own"}
    other = tmp_path / "other/jobs/artifacts"
    take_over(before, other)
    assert sorted(path.name for path in other.iterdir()) == ["one.zip", "two.zip"]


def test_the_services_of_a_run_have_its_cache_and_the_artifacts_of_earlier_jobs(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: dict[str, Any] = {}

    class Noted(Results):
        def __init__(self, **given: Any) -> None:
            named.update(given)
            super().__init__(**given)

    monkeypatch.setattr("loom.runner.pipeline.Results", Noted)
    action = Action(uses="a/b@v1", using="node20")
    ran = run(make, plans.job("one", step("a/b@v1", kind="node", action=action), condition="false"))
    assert ran.statuses == {"one": "skipped"}
    assert named["cache"] is not None
    assert named["artifacts_of"]("one") == ran.reading.paths.artifacts("one")
    assert named["record"] == ran.reading.paths.root
