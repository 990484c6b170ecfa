"""Event structures and their line format, independent of rendering.

Two kinds of line share a file. A *phase event* marks a boundary or states a fact; an *output event* is one line that a
step (or a section's tool) printed. Both carry `seq` (one count over the whole run, from 1) and `ts` (UTC, RFC 3339 with
microseconds). `decode` reverses `encode`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal

import msgspec
from msgspec import Struct

from loom.record import facts
from loom.record.documents import SCHEMA_VERSION, Positive, RelativePath, check_moment
from loom.status import Code, Status, Stream
from loom.util import jsons, typed
from loom.values import Immutable

_DEEPEST = 100
"""Maximum JSON nesting of an event or document; loom's own have about ten levels."""

Scope = Literal["run", "pipeline", "job", "step"]
Kind = Literal["phase_started", "phase_finished", "message"]


class PhaseCode(StrEnum):
    RUN_BOOTSTRAP = "run.bootstrap"
    RUN_PIPELINE_EXECUTE = "run.pipeline_execute"
    RUN_FINALIZE = "run.finalize"
    PIPELINE_EXECUTE = "pipeline.execute"
    JOB_PROVIDER_PREPARE = "job.provider_prepare"
    JOB_CACHE_RESTORE = "job.cache_restore"
    JOB_ARTIFACT_RESTORE = "job.artifact_restore"
    JOB_EXECUTION = "job.execution"
    JOB_ARTIFACT_EXTRACT = "job.artifact_extract"
    JOB_CACHE_SAVE = "job.cache_save"
    JOB_CLEANUP = "job.cleanup"
    STEP_EXECUTE = "step.execute"


def phase_words(code: str) -> str:
    """Return a phase's name for people: `cache restore`."""
    return code.rpartition(".")[2].replace("_", " ")


class Section(StrEnum):
    """The sections of loom's own work for a job; each has a directory in the record, `system/<section>/`."""

    PROVIDER = "provider"
    SERVICES = "services"
    IMAGE_BUILD = "image_build"
    CACHE_RESTORE = "cache_restore"
    CACHE_SAVE = "cache_save"
    ARTIFACT_RESTORE = "artifact_restore"
    ARTIFACT_EXTRACT = "artifact_extract"
    SECRETS = "secrets"
    CLEANUP = "cleanup"
    CHILD = "child"
    """The output of a child pipeline's run."""


class Where(Immutable):
    """The location of an event in a run."""

    scope: Scope
    job_id: str | None = None
    step: str | None = None
    section: str | None = None


RUN = Where(scope="run")
PIPELINE = Where(scope="pipeline")


class PhaseEvent(Immutable):
    """A boundary (`phase_started`, `phase_finished`) or a fact (`message`, with its values in `data`).

    `duration_ms` is a float in milliseconds with microsecond precision. `error` is text for people; `data` is a flat or
    nested mapping of JSON values, and the only source for documents. Both may be missing in a line.
    """

    schema_version: str = SCHEMA_VERSION
    seq: Positive
    ts: str
    run_id: str
    pipeline_id: str
    job_id: RelativePath | None = None
    step: RelativePath | None = None
    section: RelativePath | None = None
    scope: Scope
    phase_code: str
    phase_family: str
    kind: Kind
    status: Status | None = None
    exit_code: Code | None = None
    duration_ms: facts.Milliseconds | None = None
    error: str | None = None
    message: str | None = None
    data: Mapping[str, Any] = {}

    @property
    def where(self) -> Where:
        return Where(scope=self.scope, job_id=self.job_id, step=self.step, section=self.section)


class OutputEvent(Struct, frozen=True, tag_field="kind", tag="output", omit_defaults=True, gc=False):
    """One line of output, or a part of one (`partial`). `raw_b64` has the exact bytes where they are not UTF-8."""

    seq: Positive
    ts: str
    stream: Stream
    text: str
    partial: bool = False
    raw_b64: str | None = None

    @property
    def raw(self) -> bytes:
        return self.text.encode() if self.raw_b64 is None else base64.b64decode(self.raw_b64)


Event = PhaseEvent | OutputEvent


def timestamp(epoch_ns: int) -> str:
    """Format RFC 3339 in UTC with microseconds: `2026-11-24T23:59:01.000042Z`."""
    seconds, nanoseconds = divmod(epoch_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds // 1000:06d}Z"


def epoch_ns(ts: str) -> int:
    """Parse what `timestamp` wrote."""
    return round(datetime.fromisoformat(ts).timestamp() * 1e6) * 1000


def encode(event: Event) -> bytes:
    """Encode one line, with its line end."""
    return jsons.encode_line(to_dict(event))


def to_dict(event: Event) -> dict[str, Any]:
    """Convert an event to a JSON object, keys in documented order; missing values (None, empty data) are null or left out."""
    shape: dict[str, Any] = msgspec.to_builtins(event)
    if isinstance(event, PhaseEvent):
        for optional in ("message", "data"):
            if not shape[optional]:
                del shape[optional]
    return shape


def decode(line: bytes | str) -> Event:
    """Decode a line; the result satisfies its types and `facts`. ValueError for an incomplete or foreign one."""
    try:
        output = _OUTPUT.decode(line)  # nearly every line, and several times as quick as by way of a mapping
        if output.raw_b64 is not None:
            base64.b64decode(output.raw_b64)
        return output
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        event = typed.convert(parsed(line), PhaseEvent)
    except msgspec.ValidationError as error:
        raise ValueError(f"not a loom event: {error}") from error
    check_moment(event.ts)
    facts.check(event.kind, event.phase_code, event.message, event.data)
    return event


_OUTPUT = msgspec.json.Decoder(OutputEvent)


def parsed(data: bytes | str) -> dict[str, Any]:
    """Decode a JSON object. ValueError for other values, and for nesting that could not be encoded again."""
    shape = jsons.decode(data)
    if not isinstance(shape, dict):
        raise ValueError("not a JSON object")
    openings = data.count("{") + data.count("[") if isinstance(data, str) else data.count(b"{") + data.count(b"[")
    if openings > _DEEPEST and _is_deep(shape):
        raise ValueError(f"it is nested deeper than {_DEEPEST} levels")
    return shape


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            item
            for each in level
            if isinstance(each, dict | list)
            for item in (each.values() if isinstance(each, dict) else each)
        ]
    return any(isinstance(each, dict | list) for each in level)
