"""A sink that prints a run as JSON lines: every event, each output line with its place, and finally the receipt's path."""

from __future__ import annotations

from collections.abc import Callable

from loom.record.documents import Receipt
from loom.record.events import PhaseEvent, encode
from loom.record.journal import OutputBatch
from loom.render.screen import while_heard
from loom.util import jsons
from loom.util.controls import json_shown


class JsonLines:
    """A sink. `write` gets whole lines; when its reader is gone, the run continues without output."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        def write_shown(data: bytes) -> None:
            write(data if data.isascii() else json_shown(data.decode()).encode())

        self._write = while_heard(write_shown)

    def phase(self, event: PhaseEvent) -> None:
        self._write(encode(event))

    def output(self, batch: OutputBatch) -> None:
        where = batch.where
        place = jsons.encode_line({"job_id": where.job_id, "step": where.step, "section": where.section})
        tail = b"," + place[1:]
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
