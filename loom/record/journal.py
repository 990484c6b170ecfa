"""The journal of a run: numbers, timestamps and masks each event, then passes it to the sinks, one at a time. Thread-safe."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import msgspec
from msgspec import Struct, field

from loom.record.events import OutputEvent, PhaseCode, PhaseEvent, Where, timestamp
from loom.record.lines import Line, LineSplitter, encodable
from loom.status import Status, Stream
from loom.util import jsons
from loom.util.masking import Masker, StreamMasker

Lines = Sequence[Line | str]
"""Lines of output; a plain string is the fast form of a whole UTF-8 line."""


class OutputBatch(Struct, frozen=True):
    """Simultaneous lines of one step or section: as values, and as encoded bytes."""

    where: Where
    events: Sequence[OutputEvent]
    encoded: bytes


class Sink(Protocol):
    """A receiver of events. Called under the journal's lock: be quick, and never call the journal."""

    def phase(self, event: PhaseEvent) -> None: ...

    def output(self, batch: OutputBatch) -> None: ...


class Outcome(Struct, kw_only=True):
    """The result of a phase, set by the code inside `Journal.span`."""

    began_ns: int = 0
    status: Status = Status.SUCCESS
    exit_code: int | None = None
    error: str | None = None
    data: dict[str, Any] | None = None


class OutputWriter:
    """An `OnOutput` for one step or section. `close` records a last line without a line end."""

    def __init__(self, journal: Journal, where: Where) -> None:
        self._journal = journal
        self._where = where
        self._splitters: dict[Stream, LineSplitter] = {"stdout": LineSplitter(), "stderr": LineSplitter()}
        self._maskers: dict[Stream, StreamMasker] = {}
        self._lock = threading.Lock()
        self._unended: set[Stream] = set()
        self.counts = {"stdout_lines": 0, "stdout_bytes": 0, "stderr_lines": 0, "stderr_bytes": 0}

    def __call__(self, stream: Stream, data: bytes) -> None:
        with self._lock:
            self.counts[f"{stream}_bytes"] += len(data)
            if self._journal.masker.active:
                masker = self._maskers.get(stream)
                if masker is None:
                    masker = self._maskers[stream] = StreamMasker(self._journal.masker)
                data = masker.feed(data)
            self._emit(stream, self._splitters[stream].feed(data))

    def line(self, text: str, stream: Stream = "stdout") -> None:
        """Record one line of loom's own."""
        self(stream, text.encode(errors="surrogateescape") + b"\n")

    def close(self) -> None:
        with self._lock:
            for stream, splitter in self._splitters.items():
                masker = self._maskers.pop(stream, None)
                if masker is not None:
                    self._emit(stream, splitter.feed(masker.flush()))
                self._emit(stream, splitter.finish())
            for stream in self._unended:
                self.counts[f"{stream}_lines"] += 1

    def _emit(self, stream: Stream, lines: Lines) -> None:
        """Record the lines, and count those that end here: a long one is recorded in pieces."""
        if not lines:
            return
        pieces = sum(not isinstance(line, str) and line.partial for line in lines)
        self.counts[f"{stream}_lines"] += len(lines) - pieces
        last = lines[-1]
        if not isinstance(last, str) and last.partial:
            self._unended.add(stream)
        else:
            self._unended.discard(stream)
        self._journal.lines(self._where, stream, lines)


class Journal(Struct, kw_only=True, eq=False):
    run_id: str
    now_ns: Callable[[], int]
    masker: Masker
    sinks: Sequence[Sink] = ()
    seq: int = 0
    """Of the last event."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def started(self, where: Where, code: PhaseCode, data: Mapping[str, Any] | None = None) -> int:
        """Start a phase; return the start time for `finished`."""
        return self._phase(where, code, "phase_started", data)

    def finished(self, where: Where, code: PhaseCode, started_ns: int, outcome: Outcome) -> None:
        more: dict[str, Any] = {"status": outcome.status, "exit_code": outcome.exit_code, "error": outcome.error}
        self._phase(where, code, "phase_finished", outcome.data, started_ns=started_ns, **more)

    def fact(
        self, where: Where, code: PhaseCode, name: str, data: Mapping[str, Any] | None = None, **more: Any
    ) -> None:
        """Record a fact; `name` is a stable lower-case word, which programs may look for."""
        self._phase(where, code, "message", data, message=name, **more)

    @contextmanager
    def span(
        self, where: Where, code: PhaseCode, data: Mapping[str, Any] | None = None, *, started_ns: int | None = None
    ) -> Iterator[Outcome]:
        """Record a phase around a block, finished on every exit. `started_ns`: of one whose start is recorded already."""
        outcome = Outcome(began_ns=self.started(where, code, data) if started_ns is None else started_ns)
        try:
            yield outcome
        except BaseException as error:
            if outcome.status is Status.SUCCESS:
                outcome.status = Status.ERROR
                outcome.error = str(error) or type(error).__name__
            raise
        finally:
            self.finished(where, code, outcome.began_ns, outcome)

    def close(self) -> None:
        """Ignore further events, from abandoned threads."""
        with self._lock:
            self.sinks = ()

    def writer(self, where: Where) -> OutputWriter:
        return OutputWriter(self, where)

    def lines(self, where: Where, stream: Stream, lines: Lines) -> None:
        """Record lines that are already masked."""
        with self._lock:
            ts = timestamp(self.now_ns())
            events = [
                OutputEvent(seq, ts, stream, line)
                if isinstance(line, str)
                else OutputEvent(seq, ts, stream, line.text, line.partial, line.raw_b64)
                for seq, line in enumerate(lines, self.seq + 1)
            ]
            self.seq += len(events)
            batch = OutputBatch(where, events, _ENCODER.encode_lines(events))  # the same bytes as `events.encode`
            for sink in self.sinks:
                sink.output(batch)

    def _phase(
        self,
        where: Where,
        code: PhaseCode,
        kind: Any,
        data: Mapping[str, Any] | None,
        *,
        started_ns: int | None = None,
        error: str | None = None,
        **more: Any,
    ) -> int:
        """Record an event with these values. Returns its time."""
        masked = encodable(self.masked(data or {}))
        with self._lock:
            now = self.now_ns()
            self.seq += 1
            if started_ns is not None:
                more["duration_ms"] = round(max(0, now - started_ns) / 1e6, 3)
            event = PhaseEvent(
                seq=self.seq,
                ts=timestamp(now),
                run_id=self.run_id,
                pipeline_id=self.run_id,
                scope=where.scope,
                job_id=where.job_id,
                step=where.step,
                section=where.section,
                phase_code=code,
                phase_family=code.split(".")[0],
                kind=kind,
                error=None if error is None else encodable(self.masker.mask(error)),
                data=masked,
                **more,
            )
            for sink in self.sinks:
                sink.phase(event)
        return now

    def masked(self, value: Any) -> Any:
        """Hide secrets in every text of a JSON value."""
        return jsons.map_texts(value, self.masker.mask) if self.masker.active else value


_ENCODER = msgspec.json.Encoder()
