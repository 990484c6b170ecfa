"""The one retry: a call that is repeated by a policy, and never after a cancel."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from msgspec import Struct

from loom.cancel import Cancel

T = TypeVar("T")
TELL_S = 10.0
"""A repetition that takes longer than this is told, once."""


class Policy(Struct, frozen=True, kw_only=True):
    when: Callable[[BaseException], bool]
    attempts: int = sys.maxsize
    limit_s: float = float("inf")
    """No try begins so long after the first failure."""
    first_wait_s: float = 0.1
    """Each wait is `factor` times the previous one; a random part of it is used, unless `exact`."""
    factor: float = 2
    most_wait_s: float = 5.0
    exact: bool = False
    asked_s: Callable[[BaseException], float | None] = lambda error: None
    """Return the pause that an error asks for; None: it does not."""

    def pause_s(self, error: BaseException, attempt: int) -> float:
        asked_s = self.asked_s(error)
        if asked_s is not None:
            return asked_s
        growing_s = min(self.most_wait_s, self.first_wait_s * self.factor ** min(attempt - 1, 99))
        return growing_s if self.exact else random.uniform(0, growing_s)


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
    attempt, began, told = 1, 0.0, False
    while True:
        try:
            return call()
        except Exception as error:
            if not policy.when(error) or cancel.requested:
                raise
            if attempt == 1 or worked():
                attempt, began, told = 1, time.monotonic(), False
            pause_s = policy.pause_s(error, attempt)
            ends_s = time.monotonic() - began + pause_s
            if attempt >= policy.attempts or ends_s >= policy.limit_s:
                raise
            before(error, pause_s, attempt)
            if not told and ends_s > TELL_S:
                told = True
                tell(str(error).partition("\n")[0])
            cancel.wait(pause_s)
            if cancel.requested:
                raise
            attempt += 1
