"""Where the time of a command goes, as a trace in the format of Chrome and Perfetto; off until `begin`.

Every thread is a track, and so is every process that loom starts and every job.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

_JOBS = 1 << 30
"""Where the numbers of tracks begin that are no thread's or process's: above every number of theirs."""


class _Recording:
    """The spans so far. Appending to a list needs no lock."""

    def __init__(self) -> None:
        self.spans: list[dict[str, Any]] = []
        self.tracks: dict[int | str, tuple[int, str]] = {}
        self.target: Path | None = None

    def add(self, kind: str, name: str, began_ns: int, ended_ns: int, track: tuple[int, str], **more: Any) -> None:
        number = track[0]
        if track not in self.tracks.values():
            self.tracks[number] = track
        times = {"ts": began_ns / 1000, "dur": (ended_ns - began_ns) / 1000}
        self.spans.append({"ph": "X", "cat": kind, "name": name, **times, "pid": os.getpid(), "tid": number, **more})

    def document(self) -> dict[str, Any]:
        names = [
            {"ph": "M", "name": "thread_name", "pid": os.getpid(), "tid": number, "args": {"name": title}}
            for number, title in self.tracks.values()
        ]
        return {"displayTimeUnit": "ms", "traceEvents": [*names, *self.spans]}


_recording: _Recording | None = None
_OFF = nullcontext()


def begin() -> None:
    """Record from now on, with the interpreter's start; `python -X importtime` says what each import takes."""
    global _recording
    _recording = _Recording()
    now = time.perf_counter_ns()
    # As computed: the kernel knows a process's start to 10 ms only.
    _recording.add("start", "Python", now - time.process_time_ns(), now, _this_thread())


def write_to(target: Path) -> None:
    """Write the trace there at `end`."""
    if _recording is not None:
        _recording.target = target


def end() -> None:
    """Write what was recorded. OSError when that is impossible."""
    from loom.util import atomic, jsons  # only a recorded run needs them

    if _recording is not None and _recording.target is not None:
        atomic.write(_recording.target, jsons.encode_line(_recording.document()))


def span(kind: str, name: str) -> AbstractContextManager[None]:
    """Record the block on this thread's track, with the processor time that the thread used."""
    return _OFF if _recording is None else _span(_recording, kind, name)


@contextmanager
def _span(recording: _Recording, kind: str, name: str) -> Iterator[None]:
    began, used = time.perf_counter_ns(), time.thread_time_ns()
    try:
        yield
    finally:
        used = time.thread_time_ns() - used
        recording.add(kind, name, began, time.perf_counter_ns(), _this_thread(), tdur=used / 1000)


def process_ended(pid: int, command: Sequence[str], began_ns: int) -> None:
    """Record a process on a track of its own; `began_ns` by `time.perf_counter_ns`."""
    if _recording is not None:
        _recording.add("process", " ".join(command), began_ns, time.perf_counter_ns(), (pid, f"process {command[0]}"))


def phase_ended(job: str | None, name: str, duration_ms: float) -> None:
    """Record a part of a job, or of the run, that ends now."""
    if _recording is not None:
        now = time.perf_counter_ns()
        title = "run" if job is None else f"job {job}"
        track = _recording.tracks.setdefault(title, (_JOBS + len(_recording.tracks), title))
        _recording.add("phase", name, now - round(duration_ms * 1e6), now, track)


def _this_thread() -> tuple[int, str]:
    return threading.get_native_id(), threading.current_thread().name
