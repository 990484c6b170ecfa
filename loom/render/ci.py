"""Sinks that print a run for programs: as JSON lines, or in the log format of the CI system that loom runs in.

GitHub and GitLab can fold only consecutive lines. A job's output is therefore buffered and printed as one group when
the job ends, so parallel jobs do not mix. Of very long output, only the last lines are printed.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator

from loom.record.documents import Receipt
from loom.record.events import PhaseEvent, encode
from loom.record.journal import OutputBatch
from loom.record.workflow_commands import escaped
from loom.render.look import Detail, Look
from loom.render.screen import Screen, command_lines, while_heard
from loom.status import Status
from loom.util import jsons
from loom.util.controls import escape_commands, json_shown, visible
from loom.util.units import rough_duration

MOST_LINES = 20_000
"""Number of output lines per job to buffer; the record has all of them."""

Write = Callable[[str], None]


class _Jobs:
    """Buffer jobs' output until they end; pass other events to a plain screen."""

    def __init__(self, write: Write, *, unicode: bool) -> None:
        self._write = while_heard(write)
        # Screen lines may contain job output, which must not act as CI commands.
        self._plain = Screen(
            Look(detail=Detail.NORMAL, unicode=unicode), lambda line: self._write(escape_commands(line))
        )
        self._lines: dict[str, deque[str]] = {}
        self._dropped: dict[str, int] = {}

    def phase(self, event: PhaseEvent) -> None:
        job_id = event.job_id
        if job_id is not None:
            if event.kind == "phase_started" and event.step is not None:
                command = command_lines(event)
                self._add(job_id, visible(f"$ {command[0]}{' …' if len(command) > 1 else ''}"))
            if event.message == "job_finished" and event.status is not Status.SKIPPED:
                lines = self._lines.pop(job_id, deque())
                dropped = self._dropped.pop(job_id, 0)
                if dropped:
                    lines.appendleft(f"({dropped} lines before these are in the record)")
                for line in self._group(event, list(lines)):
                    self._write(line)
        self._plain.phase(event)

    def output(self, batch: OutputBatch) -> None:
        job_id = batch.where.job_id or ""
        for event in batch.events:
            for line in self._plain.seen(job_id, event.text):
                self._add(job_id, line)

    def close(self) -> None:
        """Release nothing."""

    def _add(self, job_id: str, text: str) -> None:
        lines = self._lines.setdefault(job_id, deque(maxlen=MOST_LINES))
        if len(lines) == MOST_LINES:
            self._dropped[job_id] = self._dropped.get(job_id, 0) + 1
        lines.append(text)

    def _group(self, event: PhaseEvent, lines: list[str]) -> Iterator[str]:
        raise NotImplementedError


def _title(event: PhaseEvent) -> str:
    return visible(f"{event.job_id}: {event.status} in {rough_duration(event.duration_ms)}")


class GitHub(_Jobs):
    """Groups of lines. `token` must be unguessable: it keeps job output from acting as GitHub commands."""

    def __init__(self, write: Write, *, unicode: bool = True, token: str) -> None:
        super().__init__(write, unicode=unicode)
        self._token = token

    def _group(self, event: PhaseEvent, lines: list[str]) -> Iterator[str]:
        yield f"::group::{escaped(_title(event))}"
        yield f"::stop-commands::{self._token}"
        yield from map(escape_commands, lines)  # the log page folds at `##[group]` even while commands are stopped
        yield f"::{self._token}::"
        yield "::endgroup::"


class GitLab(_Jobs):
    """Collapsible sections; passed jobs are collapsed. `write` must not change the escape sequences."""

    def __init__(self, write: Write, *, unicode: bool = True, clock_ns: Callable[[], int]) -> None:
        super().__init__(write, unicode=unicode)
        self._clock_ns = clock_ns

    def _group(self, event: PhaseEvent, lines: list[str]) -> Iterator[str]:
        name = "loom_" + re.sub(r"[^A-Za-z0-9_.]", "_", event.job_id or "")
        end = self._clock_ns() // 1_000_000_000
        start = end - int((event.duration_ms or 0) / 1000)
        closed = "[collapsed=true]" if event.status is Status.SUCCESS else ""
        yield f"\x1b[0Ksection_start:{start}:{name}{closed}\r\x1b[0K{_title(event)}"
        yield from lines
        yield f"\x1b[0Ksection_end:{end}:{name}\r\x1b[0K"


class JsonLines:
    """Print every event, each output line with its unit, and finally the receipt's path.

    `write` gets whole lines; when its reader is gone, the run continues without output.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        def write_shown(data: bytes) -> None:
            write(data if data.isascii() else json_shown(data.decode()).encode())

        self._write = while_heard(write_shown)

    def phase(self, event: PhaseEvent) -> None:
        self._write(encode(event))

    def output(self, batch: OutputBatch) -> None:
        where = batch.where
        position = jsons.encode_line({"job_id": where.job_id, "step": where.step, "section": where.section})
        tail = b"," + position[1:]
        self._write(b"".join(line[:-1] + tail for line in batch.encoded.splitlines() if line))

    def close(self) -> None:
        """Release nothing."""

    def receipt(self, receipt: Receipt, path: str) -> None:
        """Print the last line."""
        line = {
            "kind": "receipt",
            "receipt_path": path,
            "diagnosis_path": receipt.diagnosis_path,
            "resume_command": receipt.resume_command,
            "status": receipt.status.value,
            "exit_code": receipt.exit_code,
        }
        self._write(jsons.encode_line(line))
