"""The one retry: a call that is repeated by a policy, and never after a cancel."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from loom.cancel import Cancel
from loom.values import Immutable

T = TypeVar("T")
TELL_S = 10.0
"""A repetition that takes longer than this is told, once."""


class Policy(Immutable):
    when: Callable[[BaseException], bool]
    attempts: int = sys.maxsize
    limit_s: float = float("inf")
    """No try begins after so long."""
    first_wait_s: float = 0.1
    """Each wait is `factor` times the previous one; a random part of it is used, unless `exact`."""
    factor: float = 2
    most_wait_s: float = 5.0
    exact: bool = False
    asked_s: Callable[[BaseException], float | None] = lambda error: None
    """Return the pause that an error asks for; None: it does not."""


def retrying(
    call: Callable[[], T],
    policy: Policy,
    *,
    before: Callable[[BaseException, float, int], object] = lambda error, pause_s, attempt: None,
    tell: Callable[[str], object] = lambda why: None,
    worked: Callable[[], bool] = lambda: False,
    cancel: Cancel | None = None,
) -> T:
    """Return the result of `call`, repeating it by the policy. A cancel ends the pause, and the call fails as it failed last.

    `before` is called with the error before each pause; an error that it raises is the result. `tell` is called once, with
    the reason, when it takes long. A try that `worked` before it failed, such as a lost connection, begins the budget again.
    """
    cancel = cancel or Cancel()

    def wanted(error: BaseException) -> bool:
        return policy.when(error) and not cancel.requested

    try:
        return call()
    except Exception as error:
        if not wanted(error):
            raise
        failed = error
    # Late: tenacity takes 50 ms to import, and most calls succeed at once.
    import tenacity

    first, told = True, False

    def again() -> T:
        nonlocal failed, first
        if first or cancel.requested:
            first = False
            raise failed
        try:
            return call()
        except Exception as error:
            failed = error
            raise

    def after(state: tenacity.RetryCallState) -> None:
        nonlocal told
        if worked():
            told, state.start_time, state.attempt_number = False, time.monotonic(), 1

    def before_sleep(state: tenacity.RetryCallState) -> None:
        nonlocal told
        before(failed, state.upcoming_sleep, state.attempt_number)
        if not told and time.monotonic() - state.start_time + state.upcoming_sleep > TELL_S:
            told = True
            tell(str(failed).partition("\n")[0])

    kind: Any = tenacity.wait_exponential if policy.exact else tenacity.wait_random_exponential
    growing = kind(multiplier=policy.first_wait_s, exp_base=policy.factor, max=policy.most_wait_s)

    def wait(state: tenacity.RetryCallState) -> float:
        asked_s = policy.asked_s(failed)
        return float(growing(state)) if asked_s is None else asked_s

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(wanted),
        wait=wait,
        stop=tenacity.stop_after_attempt(policy.attempts) | tenacity.stop_before_delay(policy.limit_s),
        after=after,
        before_sleep=before_sleep,
        sleep=cancel.wait,  # type: ignore[arg-type]
        reraise=True,
    )(again)
