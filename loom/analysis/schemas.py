"""Generate the JSON Schemas of the documents that other programs read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import fields

from loom.analysis import bisection, diagnosis, printed, repetition, verdict
from loom.record import documents
from loom.record.documents import SCHEMA_VERSION
from loom.record.events import OutputEvent, PhaseCode, PhaseEvent

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


def _event() -> Shape:
    shapes = (_phase_event(), _output_event())
    definitions: Shape = {}
    for shape in shapes:
        definitions |= shape.pop("$defs", {})
    definitions |= {shape["title"]: shape for shape in shapes}
    return {
        "title": "Event",
        "description": "A line of any events.jsonl.",
        "oneOf": [{"$ref": f"{_REFERENCE}{shape['title']}"} for shape in shapes],
        "$defs": definitions,
    }


_SCHEMAS: Mapping[str, Callable[[], Shape]] = {
    "event": _event,
    "receipt": _document(documents.Receipt),
    "run-summary": _document(documents.RunSummary),
    "job-summary": _document(documents.JobSummary),
    "job-manifest": _document(documents.JobManifest),
    "step-summary": _document(documents.StepSummary),
    "diagnosis": _document(diagnosis.Diagnosis),
    "runs": _document(documents.Runs),
    "plan": _document(printed.PlanDocument),
    "exec": _document(printed.Executed),
    "bisection": _document(bisection.Bisection),
    "repetition": _document(repetition.Repetition),
    "reproduction": _document(verdict.Reproduction),
}

NAMES = tuple(_SCHEMAS)


def record_schema(name: str) -> Shape:
    """Return the named schema. KeyError for a name that is not in `NAMES`."""
    return {"$schema": _DIALECT, "$id": f"loom/{name}.schema.json", **_SCHEMAS[name]()}
