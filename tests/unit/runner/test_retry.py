"""When a job is tried again, how long it waits before, and what the next attempt finds."""

import json
import os

import pytest

from loom.cancel import Cancel
from loom.errors import ProviderError
from loom.providers.host import HostProvider

from .conftest import Make, on

FAILS_UNTIL = 'echo x >>"$COUNT"; test "$(wc -l <"$COUNT")" -ge 3 || exit {code}'


def workflow(retry: object, script: str = "exit 3", more: str = "") -> str:
    return f"stages: [test]\none: {{stage: test, retry: {json.dumps(retry)}, script: [{json.dumps(script)}]{more}}}\n"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that a run makes, none of which is waited for."""
    asked: list[float] = []

    def wait(self: Cancel, timeout_s: float) -> bool:
        asked.append(timeout_s)
        return self.requested

    monkeypatch.setattr(Cancel, "wait", wait)
    return asked


def test_a_job_that_succeeds_at_last_is_a_success(make: Make) -> None:
    project = make(workflow(2, FAILS_UNTIL.format(code=3)))
    ran = project.run(var=[f"COUNT={project.home}/count"])
    assert ran.job("one").attempts == 3
    assert [fact["attempt"] for fact in ran.facts("attempt_failed", "one")] == [1, 2]
    assert ran.facts("attempt_failed", "one")[0] == {
        "attempt": 1,
        "status": "failure",
        "error": "script/01 failed with exit code 3",
    }
    assert "failing_step" not in ran.job("one").outcome


def test_the_pause_before_each_further_attempt_is_twice_as_long(make: Make, pauses: list[float]) -> None:
    ran = make(workflow({"max": 3, "backoff": "2s"})).run(code=1)
    assert [pause for pause in pauses if pause] == [2, 4, 8]
    assert ran.job("one").attempts == 4
    assert ran.job("one").outcome["failing_step"] == "script/01"


def test_without_a_backoff_nothing_waits(make: Make, pauses: list[float]) -> None:
    make(workflow(1)).run(code=1)
    assert not any(pauses)


def test_an_interrupt_in_the_pause_ends_the_job(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    cancel = Cancel()

    def wait(self: Cancel, timeout_s: float) -> bool:
        if timeout_s:
            cancel.request()
        return self.requested

    monkeypatch.setattr(Cancel, "wait", wait)
    ran = make(workflow({"max": 2, "backoff": "2s"})).run(code=130, cancel=cancel)
    assert [unit.attempt for unit in ran.reading.units("one") if unit.step] == [1]
    assert {span.start.data["attempt"] for span in ran.job("one").phases} == {1}, "no other attempt begins"


@pytest.mark.parametrize(
    ("retry", "script", "attempts"),
    [
        ({"max": 1, "when": ["script_failure"]}, "exit 3", 2),
        ({"max": 1, "when": ["timeout"]}, "exit 3", 1),
        ({"max": 1, "when": ["provider_failure"]}, "exit 3", 1),
        ({"max": 1, "when": ["always"]}, "exit 3", 2),
        ({"max": 1, "when": ["timeout"]}, "sleep 60", 2),
        ({"max": 1, "when": ["script_failure"]}, "sleep 60", 1),
        ({"max": 1, "exit_codes": [3]}, "exit 3", 2),
        ({"max": 1, "exit_codes": [4]}, "exit 3", 1),
        ({"max": 1, "when": ["script_failure"], "exit_codes": [4]}, "exit 3", 2),
        ({"max": 1, "when": ["timeout"], "exit_codes": [4]}, "exit 3", 1),
        (2, "exit 3", 3),
        (2, "true", 1),
    ],
)
def test_what_is_tried_again(make: Make, retry: object, script: str, attempts: int) -> None:
    more = ", timeout: 200ms" if "sleep" in script else ""
    ran = make(workflow(retry, script, more)).run(code=None)
    assert ran.job("one").attempts == attempts


class Broken(HostProvider):
    """A provider whose sessions can't be opened so many times."""

    def __init__(self, times: int) -> None:
        super().__init__(os.environ)
        self.times = times

    def open(self, *arguments: object, **named: object) -> object:  # type: ignore[override]
        self.times -= 1
        if self.times >= 0:
            raise ProviderError("no room", code="NO_ROOM")
        return super().open(*arguments, **named)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("when", "attempts"), [("provider_failure", 2), ("always", 2), ("script_failure", 1), ("timeout", 1)]
)
def test_a_session_that_can_not_be_had(make: Make, when: str, attempts: int) -> None:
    project = make(workflow({"max": 1, "when": [when]}, "true"))
    ran = project.run(tools=on(Broken(times=1)), code=None)
    assert ran.code == (0 if attempts == 2 else 3)
    assert len(ran.facts("attempt_failed", "one")) == attempts - 1
    if attempts == 1:
        assert ran.error("one") == "no room"
        assert ran.job("one").outcome["error_code"] == "NO_ROOM"
        assert ran.job("one").outcome["failing_section"] == "provider"


def test_each_attempt_has_the_files_of_the_snapshot_and_its_number(make: Make) -> None:
    script = 'test ! -e left; touch left; echo "attempt $LOOM_ATTEMPT"; exit 1'
    ran = make(workflow(1, script)).run(code=1)
    assert [ran.lines("one", attempt=number) for number in (1, 2)] == [["attempt 1"], ["attempt 2"]]
