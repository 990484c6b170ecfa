"""The one retry: a call that is repeated by a policy, and never after a cancel."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

from msgspec import Struct

from loom.cancel import Cancel

T = TypeVar("T")


class Policy(Struct, frozen=True, kw_only=True):
    when: Callable[[BaseException], bool]
    attempts: int = sys.maxsize
    limit_s: float = float("inf")
    """No try begins after so long."""
    first_wait_s: float = 0.1
    """Each wait is `factor` times the previous one; a random part of it is used, unless `exact`."""
    factor: float = 2
    most_wait_s: float = 5.0
    exact: bool = False


def retrying(
    call: Callable[[], T],
    policy: Policy,
    *,
    before: Callable[[BaseException, float, int], object] = lambda error, pause_s, attempt: None,
    cancel: Cancel | None = None,
) -> T:
    """Return the result of `call`, repeating it by the policy. A cancel ends the pause, and the call fails as it failed last.

    `before` is called with the error before each pause; an error that it raises is the result.
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

    first = True

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

    def before_sleep(state: tenacity.RetryCallState) -> None:
        assert state.next_action is not None
        before(failed, state.next_action.sleep, state.attempt_number)

    wait: Any = tenacity.wait_exponential if policy.exact else tenacity.wait_random_exponential
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(wanted),
        wait=wait(multiplier=policy.first_wait_s, exp_base=policy.factor, max=policy.most_wait_s),
        stop=tenacity.stop_after_attempt(policy.attempts) | tenacity.stop_before_delay(policy.limit_s),
        before_sleep=before_sleep,
        sleep=cancel.wait,  # type: ignore[arg-type]
        reraise=True,
    )(again)
