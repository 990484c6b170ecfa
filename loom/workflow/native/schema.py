"""Generate the JSON Schema (2020-12) of workflow files from the table of keys, for editors."""

from __future__ import annotations

from typing import Any

from loom.workflow.keywords import Keyword, Shape, Table, shape_of
from loom.workflow.native import keywords, values

ID = "https://loom.invalid/schema/workflow-v1.json"
_ONE_OF: dict[str, dict[str, Any]] = {
    "artifacts": {"anyOf": [{"required": ["paths"]}, {"required": ["untracked"]}, {"required": ["reports"]}]},
    "parallel": {"oneOf": [{"required": ["count"]}, {"required": ["matrix"]}]},
}
"""The keys of which a whole mapping has some."""


def workflow_schema() -> dict[str, Any]:
    """Return a schema that accepts what the loader accepts, as far as one file's shape determines it."""
    root = _mapping(keywords.TABLES["root"], "", partial=False)
    job = _mapping(keywords.TABLES["job"], "", partial=False)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": ID,
        "title": "loom workflow v1",
        "description": "A loom workflow: .loom/workflow.yml",
        **root,
        "properties": {**root["properties"], "default": {"$ref": "#/$defs/Default", "description": keywords.DEFAULT}},
        "patternProperties": {
            # Root keys are not jobs, even if the name pattern matches.
            f"^(?!({'|'.join(keywords.ROOT_KEYS)})$){values.JOB[1:]}": {"$ref": "#/$defs/Job"},
            values.TEMPLATE: {"$ref": "#/$defs/Template"},
        },
        "$defs": {
            "Default": _mapping(keywords.TABLES["default"], "", partial=True),
            # `extends` and included files may add keys.
            "Job": {**job, "anyOf": [{"required": ["extends"]}, {"required": ["stage", "script"]}]},
            "Template": _mapping(keywords.TABLES["job"], "", partial=True),
        },
    }


def _mapping(table: Table, name: str, *, partial: bool) -> dict[str, Any]:
    """Return the schema of a mapping; a partial one may lack required keys, which merging may add."""
    rows = table[name]
    required = [key for key, row in rows.items() if row.required]
    return {
        "type": "object",
        "properties": {key: {**_value(table, row, partial), "description": row.about} for key, row in rows.items()},
        "additionalProperties": False,
        **({"required": required} if required and not partial else {}),
        **({} if partial else _ONE_OF.get(name, {})),
    }


def _value(table: Table, row: Keyword, partial: bool) -> dict[str, Any]:
    choices = _choices(table, row, shape_of(row.shape), partial)
    return choices[0] if len(choices) == 1 else {"anyOf": choices}


def _choices(table: Table, row: Keyword, shape: Shape, partial: bool) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [values.TYPES[kind].schema for kind in shape.kinds if kind in values.TYPES]
    if shape.words:
        found.append({"enum": list(shape.words)})
    if shape.items is not None:
        items = _choices(table, row, shape.items, partial)
        below = items[0] if len(items) == 1 else {"anyOf": items}
        found.append({"type": "array", "items": below, **({"minItems": 1} if row.filled else {})})
    if "map" in shape.kinds:
        found.append(_mapping(table, row.name, partial=partial))
    if "open" in shape.kinds:
        below = _value(table, table[row.name]["NAME"], partial)
        kind = values.NAMES.get(row.name.rpartition(":")[2], "variable")
        names = {"patternProperties": {values.TYPES[kind].schema["pattern"]: below}, "additionalProperties": False}
        found.append({"type": "object", **names, **({"minProperties": 1} if row.filled else {})})
    return found
