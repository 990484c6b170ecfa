"""Repeat calls to the engine: one policy for each kind of failure.

A container is started again under a new name (`START`) or as it is (`RESTART`), always with new connections; a pull with a new
connection. A step, a call that was silent for as long as it may be, and what the engine refuses are never repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from loom.cancel import Cancel
from loom.errors import ImageError, ProviderError
from loom.providers.docker.engine.errors import explanation, names_of, root_cause, translated
from loom.util.retrying import Policy
from loom.util.retrying import retrying as repeated

T = TypeVar("T")
Made = TypeVar("Made")
_TIMEOUTS = {"requests.exceptions.Timeout", "builtins.TimeoutError"}
_BROKEN = {
    "requests.exceptions.ConnectionError",
    "requests.exceptions.ChunkedEncodingError",
    "urllib3.exceptions.ProtocolError",
    "http.client.HTTPException",
    "builtins.ConnectionError",
}
_OF_REGISTRY = frozenset({"IMAGE_REGISTRY_DOWN", "IMAGE_RATE_LIMITED"})


def is_transient(error: BaseException) -> bool:
    """Return whether an error is temporary: a broken connection, a gateway's 5xx, a slow engine.

    Not an engine that exceeded the maximum silence: a retry would only double that time.
    """
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        return status in (429, 502, 503, 504) or (status == 500 and "deadline exceeded" in explanation(error))
    names = set(names_of(error))
    cause = root_cause(error)
    slow = isinstance(cause, TimeoutError) or "Read timed out" in str(cause)
    return bool(names & _BROKEN) and not names & _TIMEOUTS and not slow


class StartFailed(ProviderError):
    """A container did not start, through no fault of the request. Nothing of its image ran, but it is unusable.

    `refused`: the engine reported it; otherwise its answer was lost, and the container may run.
    """

    default_code = "CONTAINER_START_FAILED"
    refused: bool = True


def start_failed(error: BaseException, doing: str) -> StartFailed | None:
    """Return the error for a failed start that may succeed next time; `doing` names container and owner."""
    # The runtime's init process exited at once, as happens on a busy machine.
    refused = getattr(error, "status_code", None) == 500 and "read init-p" in explanation(error)
    if not refused and not is_transient(error):
        return None
    failed = StartFailed(f"{doing}: {explanation(error)}", hint="the machine may be overloaded: run it again")
    failed.refused = refused
    return failed


class NotRepeated(ImageError):
    """A pull or build that is not retried, because the engine retried it or timed out."""


HICCUP = Policy(when=is_transient, attempts=4)
REMOVAL = Policy(when=lambda error: is_transient(error) or "has active endpoints" in explanation(error), attempts=6)
START = Policy(when=lambda error: isinstance(error, StartFailed), attempts=3)
RESTART = Policy(when=START.when, attempts=4)
PULL = Policy(
    when=lambda error: (
        isinstance(error, ImageError)
        and error.code in _OF_REGISTRY
        and "no such host" not in error.message
        and not isinstance(error, NotRepeated)
    ),
    attempts=4,
    first_wait_s=0.5,
    factor=3,
    exact=True,  # it is announced
)
RESUMED_AT_MOST = 100


def retrying(call: Callable[[], T], policy: Policy = HICCUP, **more: Any) -> T:
    """Retry as `util.retrying`; without a policy, for a call that is safe to repeat."""
    return repeated(call, policy, **more)


def asked(doing: str, call: Callable[[], T]) -> T:
    """Return the engine's answer to a call that is safe to repeat; `doing` names the operation for the error."""
    with translated(doing):
        return retrying(call)


def starting(make: Callable[[], Made], start: Callable[[Made], T], remove: Callable[[Made], None], cancel: Cancel) -> T:
    """Return the result of `start` for a container that `make` made; repeat both after StartFailed.

    `start` makes new connections each time: an engine that fails a start drops the connections that were made for it. A container
    is given a second start where the engine says that the first did not happen; then it is removed, and a new one is made.
    """

    def attempt() -> T:
        made = make()
        try:
            try:
                return start(made)
            except StartFailed as failed:
                if not failed.refused or cancel.requested:
                    raise
                return start(made)
        except StartFailed:
            remove(made)
            raise

    return retrying(attempt, START, cancel=cancel)


def restarting(api: Any, container_id: str, doing: str, connect: Callable[[], None] = lambda: None) -> None:
    """Start a container that can't be replaced, again after StartFailed; `connect` is called before each start."""

    def start() -> None:
        connect()
        try:
            api.start(container_id)
        except Exception as error:
            if failed := start_failed(error, doing):
                raise failed from error
            raise

    retrying(start, RESTART)
