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
    begun, wait_s, attempt = time.monotonic(), policy.first_wait_s, 0
    while True:
        attempt += 1
        try:
            return call()
        except Exception as error:
            pause_s = min(wait_s, policy.most_wait_s) * (1 if policy.exact else random.random())
            over = attempt >= policy.attempts or time.monotonic() - begun + pause_s >= policy.limit_s
            if over or cancel.requested or not policy.when(error):
                raise
            before(error, pause_s, attempt)
            if cancel.wait(pause_s):
                raise
        wait_s *= policy.factor
