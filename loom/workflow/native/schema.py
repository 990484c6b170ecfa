"""Generate the JSON Schema (2020-12) of workflow files from the models, for editors."""

from __future__ import annotations

from typing import Any

from loom.workflow.native import models, values

ID = "https://loom.invalid/schema/workflow-v1.json"
_REFERENCE = "#/$defs/"


def workflow_schema() -> dict[str, Any]:
    """Return a schema that accepts what the loader accepts, as far as one file's shape determines it."""
    definitions: dict[str, Any] = {}
    root = _take(models.Root, definitions)
    job = _take(models.Job, definitions)
    common = _take(models.Common, definitions)
    root["properties"].pop("default", None)
    partial = {f"Partial{name}": _partial(shape) for name, shape in definitions.items()}
    definitions["Job"] = {
        **job,
        "title": "Job",
        # `extends` and included files may add keys.
        "anyOf": [{"required": ["extends"]}, {"required": ["stage", "script"]}],
    }
    definitions |= partial
    definitions["Template"] = {**_partial(job), "title": "Template"}
    definitions["Default"] = {**_partial(common), "title": "Default"}
    definitions.pop("Common", None)
    definitions.pop("PartialCommon", None)
    about = models.Root.model_fields["default"].description
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": ID,
        "title": "loom workflow v1",
        "description": "A loom workflow: .loom/workflow.yml",
        "type": "object",
        "properties": {**root["properties"], "default": {"$ref": f"{_REFERENCE}Default", "description": about}},
        "patternProperties": {
            # Root keys are not jobs, even if the name pattern matches.
            f"^(?!({'|'.join(models.ROOT_KEYS)})$){values.JOB[1:]}": {"$ref": f"{_REFERENCE}Job"},
            values.TEMPLATE: {"$ref": f"{_REFERENCE}Template"},
        },
        "additionalProperties": False,
        "required": ["version", "stages"],
        "$defs": dict(sorted(definitions.items())),
    }
    cleaned: dict[str, Any] = _tidy(schema)
    _drop_unused(cleaned)
    return cleaned


def _take(model: type[models.Model], definitions: dict[str, Any]) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template=_REFERENCE + "{model}")
    definitions |= schema.pop("$defs", {})
    return schema


def _partial(shape: Any) -> Any:
    """Return the shape without required keys: merging may add them."""
    if isinstance(shape, dict):
        found = {
            key: _partial(value)
            for key, value in shape.items()
            if key not in ("required",) or not isinstance(value, list)
        }
        if isinstance(found.get("$ref"), str):
            found["$ref"] = found["$ref"].replace(_REFERENCE, f"{_REFERENCE}Partial")
        return found
    return [_partial(item) for item in shape] if isinstance(shape, list) else shape


def _tidy(value: Any) -> Any:
    """Remove noise: null alternatives (keys always need a value), null defaults, generated titles."""
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if not isinstance(value, dict):
        return value
    found: dict[str, Any] = {}
    for key, item in value.items():
        if (
            key == "title"
            and isinstance(item, str)
            and value.keys() & {"type", "anyOf", "$ref", "const", "enum"}
            and "$defs" not in value
        ):
            continue
        if key == "default" and item is None:
            continue
        if key == "properties" and isinstance(item, dict):
            found[key] = {name: _tidy(shape) for name, shape in item.items()}
            continue
        found[key] = _tidy(item)
    if "patternProperties" in found:
        found.setdefault("additionalProperties", False)
    choices = found.get("anyOf")
    if isinstance(choices, list):
        choices = [choice for choice in choices if choice != {"type": "null"}]
        if len(choices) == 1 and "required" not in choices[0]:
            del found["anyOf"]
            found = {**choices[0], **found}
        else:
            found["anyOf"] = choices
    return found


def _drop_unused(schema: dict[str, Any]) -> None:
    definitions = schema["$defs"]
    while True:
        text = repr(schema)
        unused = [name for name in definitions if f"'{_REFERENCE}{name}'" not in text]
        if not unused:
            return
        for name in unused:
            del definitions[name]
