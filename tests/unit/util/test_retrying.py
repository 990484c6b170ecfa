"""The one retry: what ends it."""

import threading

import pytest

from loom.cancel import Cancel
from loom.util.retrying import Policy, retrying

POLICY = Policy(when=lambda error: isinstance(error, OSError), attempts=5, first_wait_s=0.001)


class Failing:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1
        raise OSError(self.calls)


@pytest.mark.parametrize(("policy", "calls"), [(POLICY, 5), (Policy(when=POLICY.when, limit_s=0), 1)])
def test_the_last_error_is_raised_when_the_budget_is_used_up(policy: Policy, calls: int) -> None:
    call = Failing()
    with pytest.raises(OSError, match=str(calls)):
        retrying(call, policy)
    assert call.calls == calls


def test_a_cancel_in_the_pause_begins_no_other_try() -> None:
    call, cancel = Failing(), Cancel()
    threads: list[threading.Thread] = []

    def before(error: BaseException, pause_s: float, attempt: int) -> None:
        threads.append(threading.Thread(target=cancel.request))
        threads[-1].start()

    with pytest.raises(OSError, match="1"):
        retrying(
            call,
            Policy(when=POLICY.when, first_wait_s=1000, most_wait_s=1000, exact=True),
            before=before,
            cancel=cancel,
        )
    assert call.calls == 1
    threads[0].join()


def test_what_is_asked_between_two_tries_may_end_them() -> None:
    call = Failing()

    def before(error: BaseException, pause_s: float, attempt: int) -> None:
        if attempt == 2:
            raise LookupError("it is gone") from error

    with pytest.raises(LookupError, match="it is gone"):
        retrying(call, POLICY, before=before)
    assert call.calls == 2


def test_a_try_that_worked_begins_the_budget_again() -> None:
    call = Failing()
    with pytest.raises(OSError, match="8"):
        retrying(call, POLICY, worked=lambda: call.calls == 4)
    assert call.calls == 8


def test_an_error_says_how_long_to_pause() -> None:
    call, pauses = Failing(), list[float]()
    policy = Policy(when=POLICY.when, attempts=3, first_wait_s=1000, asked_s=lambda error: 0.001)
    with pytest.raises(OSError, match="3"):
        retrying(call, policy, before=lambda error, pause_s, attempt: pauses.append(pause_s))
    assert pauses == [0.001, 0.001]


def test_a_pause_beyond_the_budget_is_not_begun() -> None:
    call = Failing()
    with pytest.raises(OSError, match="1"):
        retrying(call, Policy(when=POLICY.when, limit_s=60, asked_s=lambda error: 3600))
    assert call.calls == 1


def test_what_takes_long_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    with pytest.raises(OSError, match="5"):
        retrying(Failing(), POLICY, tell=told.append)
    assert not told
    monkeypatch.setattr("loom.util.retrying.TELL_S", 0.0)
    with pytest.raises(OSError, match="5"):
        retrying(Failing(), POLICY, tell=told.append)
    assert told == ["1"]
