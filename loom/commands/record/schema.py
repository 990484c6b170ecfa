"""`loom schema`: the JSON Schemas of workflow files and of the documents that other programs read."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import fields

from loom.analysis import bisection, diagnosis, repetition, verdict
from loom.commands.inside import shell
from loom.errors import RequestError
from loom.record import documents
from loom.record.documents import SCHEMA_VERSION
from loom.record.events import OutputEvent, PhaseCode, PhaseEvent
from loom.record.request import Request
from loom.render import jobs, plan
from loom.render.output import json_text
from loom.workflow.native.schema import workflow_schema

_REFERENCE = "#/$defs/"
Shape = dict[str, Any]


def _shape(kind: type[Struct]) -> Shape:
    """Return the schema of written documents: all keys are required, also those with a default."""
    _, definitions = msgspec.json.schema_components([kind], ref_template=_REFERENCE + "{name}")
    own: Shape = _strict(definitions.pop(kind.__name__))
    others = {name: _strict(shape) for name, shape in sorted(definitions.items())}
    return {**own, "$defs": others} if others else own


def _strict(shape: Any) -> Any:
    if isinstance(shape, list | tuple):
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
    """Return the fields that a document leaves out where they have no value, by the document's name."""
    kinds: list[type[Struct]] = [*documents.Document.__subclasses__(), Request]
    return {
        kind.__name__: {
            each.name for each in fields(kind) if each.default is UNSET or kind.__struct_config__.omit_defaults
        }
        for kind in kinds
    }


def _event() -> Shape:
    phase, output = _shape(PhaseEvent), _shape(OutputEvent)
    phase["properties"]["phase_code"]["enum"] = [code.value for code in PhaseCode]
    phase["properties"]["schema_version"] = {"const": SCHEMA_VERSION, "type": "string"}
    phase["required"] = [name for name in phase["properties"] if name not in ("message", "data")]
    output["required"] = ["seq", "ts", "kind", "stream", "text"]
    definitions = phase.pop("$defs", {}) | output.pop("$defs", {})
    for shape in (phase, output):
        shape["properties"]["ts"]["format"] = "date-time"
    return _one_of("Event", "A line of any events.jsonl.", definitions, phase, output)


def _output() -> Shape:
    shapes = [_shape(kind) for kind in _PRINTED]
    definitions = {name: found for shape in shapes for name, found in shape.pop("$defs", {}).items()}
    return _one_of("Output", "What a command prints with `--json`.", definitions, *shapes)


def _one_of(title: str, description: str, definitions: Shape, *shapes: Shape) -> Shape:
    return {
        "title": title,
        "description": description,
        "oneOf": [{"$ref": f"{_REFERENCE}{shape['title']}"} for shape in shapes],
        "$defs": definitions | {shape["title"]: shape for shape in shapes},
    }


_SCHEMAS: Mapping[str, type[Struct]] = {
    "receipt": documents.Receipt,
    "job-manifest": documents.JobManifest,
}
_PRINTED = (
    documents.Runs,
    diagnosis.Diagnosis,
    plan.PlanDocument,
    jobs.JobsDocument,
    shell.Executed,
    bisection.Bisection,
    repetition.Repetition,
    verdict.Reproduction,
)
_OF_SEVERAL = {"event": _event, "output": _output}

NAMES = (*_OF_SEVERAL, *_SCHEMAS)


def record_schema(name: str) -> Shape:
    """Return the named schema. KeyError for a name that is not in `NAMES`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"loom/{name}.schema.json",
        **(_OF_SEVERAL[name]() if name in _OF_SEVERAL else _shape(_SCHEMAS[name])),
    }


def schema(record: str | None) -> None:
    if record is None:
        sys.stdout.write(json_text(workflow_schema()))
    elif record == "list":
        print("\n".join(NAMES))
    elif record in NAMES:
        sys.stdout.write(json_text(record_schema(record)))
    else:
        raise RequestError(f"there is no schema {record!r}", hint=f"there are: {', '.join(NAMES)}")
