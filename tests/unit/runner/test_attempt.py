"""What an attempt makes of a place that breaks, and what it tells the record."""

import itertools
from typing import Any, cast

import pytest

from loom.cancel import Cancel
from loom.errors import EngineUnavailable, ProviderError
from loom.plan.model import Job
from loom.record.events import PhaseCode, Section
from loom.record.journal import Journal
from loom.runner.attempt import Attempt
from loom.status import Status
from loom.util.masking import Masker

JOB = Job(id="a", name="a", stage="s", steps=(), provider="host")
CODE = PhaseCode.JOB_CLEANUP


def attempt_in(events: list[Any], cancel: Cancel | None = None) -> Attempt:
    class Sink:
        def phase(self, event: Any) -> None:
            events.append(event)

    clock = itertools.count(1).__next__
    journal = Journal(run_id="r", now_ns=clock, masker=Masker(), sinks=[cast("Any", Sink())])
    return Attempt(JOB, journal, cancel or Cancel(), number=1)


def test_a_broken_session_is_the_attempts_error_and_other_work_goes_on() -> None:
    events: list[Any] = []
    attempt = attempt_in(events)
    with attempt.work(Section.CLEANUP, CODE):
        raise ProviderError("gone", code="CONTAINER_LOST")
    assert [(one.kind, one.section, one.status, one.error) for one in events] == [
        ("phase_started", None, None, None),
        ("phase_started", "cleanup", None, None),
        ("phase_finished", "cleanup", "error", "gone"),
        ("phase_finished", None, "error", "gone"),
    ]
    assert (attempt.status, attempt.error, attempt.error_code) == (Status.ERROR, "gone", "CONTAINER_LOST")
    assert attempt.failing_section == Section.CLEANUP
    with attempt.phase(CODE):
        raise ProviderError("another")
    assert attempt.error == "gone", "the first reason stays"


def test_what_breaks_after_a_cancel_is_canceled() -> None:
    cancel = Cancel()
    attempt = attempt_in([], cancel)
    cancel.request(None)
    with attempt.phase(CODE):
        raise ProviderError("gone")
    assert (attempt.status, attempt.error_code) == (Status.CANCELED, None)


def test_a_failed_step_stays_the_reason() -> None:
    attempt = attempt_in([])
    attempt.status, attempt.error = Status.FAILURE, "exit code 1"
    attempt.blame(step="script/01")
    with attempt.work(Section.CACHE_SAVE, CODE):
        raise ProviderError("full")
    assert (attempt.status, attempt.error) == (Status.FAILURE, "exit code 1")
    assert (attempt.failing_step, attempt.failing_section) == ("script/01", None)


def test_a_bug_is_no_value() -> None:
    attempt = attempt_in([])
    with pytest.raises(ZeroDivisionError), attempt.phase(CODE):
        raise ZeroDivisionError
    assert attempt.status is Status.SUCCESS


def test_a_silent_section_leaves_no_record_and_one_that_fails_does() -> None:
    events: list[Any] = []
    attempt = attempt_in(events)
    with attempt.section(Section.IMAGE_BUILD, CODE):
        pass
    assert events == []
    with pytest.raises(ProviderError), attempt.section(Section.IMAGE_BUILD, CODE):
        raise ProviderError("no such image")
    assert len(events) == 2
    assert "no such image" in str(events[1])


def test_only_a_session_that_can_not_be_reached_is_left() -> None:
    attempt, left = attempt_in([]), list[str]()
    for error in (ProviderError("gone"), EngineUnavailable("no engine")):
        with attempt.phase(CODE):
            raise error
        assert attempt.error == "gone", "an attempt that nobody left goes on"
    attempt.on_lost = left.append
    for error in (ProviderError("gone"), EngineUnavailable("no engine")):
        with attempt.phase(CODE):
            raise error
    assert left == ["no engine"]
