"""Generate the JSON Schemas of record documents and machine-readable output."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import fields

from loom.analysis import diagnosis, diff, printed
from loom.record import documents
from loom.record.documents import SCHEMA_VERSION
from loom.record.events import OutputEvent, PhaseCode, PhaseEvent
from loom.status import Status

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REFERENCE = "#/$defs/"
Shape = dict[str, Any]


def _document(kind: type[Struct]) -> Callable[[], Shape]:
    return lambda: _shape(kind)


def _shape(kind: type[Struct]) -> Shape:
    """Return the schema of written documents: all keys are required, also those with a default."""
    _, definitions = msgspec.json.schema_components([kind], ref_template=_REFERENCE + "{name}")
    own: Shape = _strict(definitions.pop(kind.__name__))
    others = {name: _strict(shape) for name, shape in sorted(definitions.items())}
    return {**own, "$defs": others} if others else own


def _strict(shape: Any) -> Any:
    if isinstance(shape, list):
        return [_strict(item) for item in shape]
    if not isinstance(shape, dict):
        return shape
    found = {key: _strict(value) for key, value in shape.items()}
    if isinstance(found.get("enum"), list) and len(found["enum"]) == 1:
        found |= {"const": found.pop("enum")[0], "type": "string"}
    if isinstance(found.get("description"), str):
        found["description"] = inspect.cleandoc(found["description"])
    if isinstance(found.get("properties"), dict):
        left_out = _left_out().get(str(found.get("title")), set())
        required = [name for name in found["properties"] if name not in left_out]
        found |= {"required": required, "additionalProperties": False}
    return found


@cache
def _left_out() -> dict[str, set[str]]:
    """Fields that a document leaves out where they have no value, by the document's name."""
    return {
        kind.__name__: {each.name for each in fields(kind) if each.default is UNSET}
        for kind in documents.Document.__subclasses__()
    }


def _phase_event() -> Shape:
    shape = _shape(PhaseEvent)
    shape["properties"]["phase_code"]["enum"] = [code.value for code in PhaseCode]
    shape["properties"]["schema_version"] = {"const": SCHEMA_VERSION, "type": "string"}
    shape["properties"]["ts"]["format"] = "date-time"
    return shape | {"required": [name for name in shape["properties"] if name not in ("message", "data")]}


def _output_event() -> Shape:
    shape = _shape(OutputEvent)
    shape["properties"]["ts"]["format"] = "date-time"
    return shape | {"required": ["seq", "ts", "kind", "stream", "text"]}


def _log_line() -> Shape:
    shape = _output_event()
    nullable = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    for name in ("job_id", "step", "section"):
        shape["properties"][name] = nullable
        shape["required"].append(name)
    return {**shape, "title": "LogLine", "description": "A line of `loom logs --json` and `loom run --json`."}


def _event() -> Shape:
    return _either("Event", "A line of any events.jsonl.", _phase_event(), _output_event())


def _stream_line() -> Shape:
    receipt = {
        "title": "ReceiptLine",
        "description": "The last line: where the receipt is.",
        "type": "object",
        "properties": {
            "kind": {"const": "receipt", "type": "string"},
            "receipt_path": {"type": "string"},
            "diagnosis_path": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "resume_command": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "status": {"enum": [status.value for status in Status], "type": "string"},
            "exit_code": {"type": "integer"},
        },
        "required": ["kind", "receipt_path", "diagnosis_path", "resume_command", "status", "exit_code"],
        "additionalProperties": False,
    }
    return _either("StreamLine", "A line of `loom run --json`.", _phase_event(), _log_line(), receipt)


def _either(title: str, description: str, *shapes: Shape) -> Shape:
    definitions: Shape = {}
    for shape in shapes:
        definitions |= shape.pop("$defs", {})
    definitions |= {shape["title"]: shape for shape in shapes}
    return {
        "title": title,
        "description": description,
        "oneOf": [{"$ref": f"{_REFERENCE}{shape['title']}"} for shape in shapes],
        "$defs": definitions,
    }


_SCHEMAS: Mapping[str, Callable[[], Shape]] = {
    "event": _event,
    "receipt": _document(documents.Receipt),
    "run-summary": _document(documents.RunSummary),
    "phase-report": _document(documents.PhaseReport),
    "pipeline-summary": _document(documents.PipelineSummary),
    "pipeline-manifest": _document(documents.PipelineManifest),
    "job-summary": _document(documents.JobSummary),
    "job-manifest": _document(documents.JobManifest),
    "step-summary": _document(documents.StepSummary),
    "section-summary": _document(documents.SectionSummary),
    "runs": _document(documents.Runs),
    "show": _document(documents.Show),
    "log-line": _log_line,
    "stream-line": _stream_line,
    "diagnosis": _document(diagnosis.Diagnosis),
    "diff": _document(diff.Diff),
    **{name: _document(kind) for name, kind in printed.BY_NAME.items()},
}

NAMES = tuple(_SCHEMAS)


def record_schema(name: str) -> Shape:
    """Return the named schema. KeyError for a name that is not in `NAMES`."""
    return {"$schema": _DIALECT, "$id": f"loom/{name}.schema.json", **_SCHEMAS[name]()}
