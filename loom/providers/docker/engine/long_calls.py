"""Long engine calls: cancelable streams, and detection of a silent engine."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

from docker.types.daemon import CancellableStream

from loom.cancel import Cancel
from loom.errors import ImageError
from loom.providers.docker.engine.client import Engine
from loom.providers.docker.engine.errors import engine_errors
from loom.providers.docker.engine.retries import NotRepeated

_STALLED_AFTER_S = 300.0


Item = TypeVar("Item")


def streamed(
    engine: Engine, ask: Callable[[Any], Iterable[dict[str, Any]]], cancel: Cancel, *, what: str
) -> Iterator[dict[str, Any]]:
    """Yield the answers to one long call of the API (a pull, a build), as `iterate_in_thread`.

    It has a connection of its own, which ends with the call: the engine stops when it closes.
    """
    client, answers = engine.another(), list[Any]()
    # The SDK exposes only the decoded stream; requests' hook gives access to the connection.
    client.api.hooks["response"].append(lambda answer, *_, **__: answers.append(answer))

    def items() -> Iterator[dict[str, Any]]:
        yield from ask(client.api)  # the request belongs here: it blocks until a registry has answered the engine

    def cut() -> None:
        with suppress(Exception):  # it has ended, or the transport has no socket to close
            for answer in answers[-1:]:
                CancellableStream(iter(()), answer).close()

    try:
        yield from iterate_in_thread(items(), cancel, what=what, cut=cut)
    finally:
        client.close()


def iterate_in_thread(
    items: Iterable[Item], cancel: Cancel, *, what: str, cut: Callable[[], None] | None = None
) -> Iterator[Item]:
    """Yield the items of a blocking iterable, read in a thread, so that a cancel or a stall ends the wait.

    `cut` is called to abandon the rest. The daemon thread may outlive that briefly.
    """
    arrived: queue.Queue[tuple[Item | None, BaseException | None, bool]] = queue.Queue(maxsize=1000)
    given_up = threading.Event()

    def read() -> None:
        try:
            for item in items:
                if given_up.is_set():
                    return
                arrived.put((item, None, False))
            arrived.put((None, None, True))
        except BaseException as error:  # noqa: BLE001  handed to the caller's thread, whatever it is
            if not given_up.is_set():
                arrived.put((None, error, True))
        finally:
            getattr(items, "close", lambda: None)()

    threading.Thread(target=read, name="loom-engine-stream", daemon=True).start()
    heard_at = time.monotonic()
    try:
        while True:
            if cancel.requested:
                raise canceled(what)
            try:
                item, error, last = arrived.get(timeout=0.1)
            except queue.Empty:
                if time.monotonic() - heard_at > _STALLED_AFTER_S:
                    raise NotRepeated(
                        f"{what}: nothing was heard for {_STALLED_AFTER_S:.0f} s",
                        hint="The registry or the network stalls. Try again later.",
                        code="IMAGE_REGISTRY_DOWN",
                    ) from None
                continue
            heard_at = time.monotonic()
            if error is not None:
                with engine_errors():
                    raise error
            if last:
                cut = None
                return
            yield item  # type: ignore[misc]  # only the last tuple carries no item
    finally:
        given_up.set()
        if cut is not None:
            cut()
        while not arrived.empty():
            arrived.get_nowait()


def canceled(what: str) -> ImageError:
    return ImageError(f"canceled while {what}", code="CANCELED")
