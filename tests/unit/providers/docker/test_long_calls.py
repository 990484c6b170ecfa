"""Streams of the engine that a cancel ends."""

import threading

import pytest

from loom.cancel import Cancel
from loom.errors import ImageError
from loom.providers.docker.engine.long_calls import iterate_in_thread
from tests.support.waiting import promptly


def test_a_blocking_stream_hands_on_items_and_errors() -> None:
    assert list(iterate_in_thread(iter([1, 2, 3]), Cancel(), what="x")) == [1, 2, 3]

    def broken() -> object:
        yield 1
        raise ValueError("inside")

    items = iterate_in_thread(broken(), Cancel(), what="x")  # type: ignore[arg-type]
    assert next(items) == 1
    with pytest.raises(ValueError, match="inside"):
        next(items)


def test_a_cancel_ends_the_wait_for_a_stream_that_says_nothing() -> None:
    cancel = Cancel()
    threading.Timer(0.1, cancel.request).start()
    release = threading.Event()

    def silent() -> object:
        release.wait(300)
        yield 1

    with promptly(), pytest.raises(ImageError, match="canceled while x"):
        next(iterate_in_thread(silent(), cancel, what="x"))  # type: ignore[arg-type]
    release.set()
