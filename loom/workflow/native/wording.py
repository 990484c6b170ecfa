"""The words for wrong values, each with a valid form."""

from __future__ import annotations

import re
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from loom.util.units import meant, nearest
from loom.util.yaml_file import Kind, Node
from loom.workflow import words as words_of
from loom.workflow.native import models, values

FOREIGN = {
    "steps": "script",
    "run": "script",
    "env": "variables",
    "environment": "(a deployment target; a local run does not deploy)",
    "tags": "runner_pool",
    "runs-on": "image",
    "container": "image",
    "depends_on": "needs",
    "dependencies": "needs",
    "only": "rules",
    "except": "rules",
    "if": "rules",
    "trigger": "(a job can't start other pipelines)",
    "matrix": "parallel",
    "timeout-minutes": "timeout",
    "continue-on-error": "allow_failure",
    "interruptible": "(every job can be interrupted)",
    "coverage": "(print it in a step instead)",
}
"""Keys of other CI systems, and their equivalents here."""


def unknown_key(model: type[BaseModel], location: tuple[str | int, ...], name: str) -> str:
    known = _keys_at(model, location[:-1])
    if model is models.Common and len(location) == 1 and name in models.JOB_KEYS:
        return f"{name} can't be a default; put it into a template and extend that"
    foreign = FOREIGN.get(name, "")
    close = foreign if foreign in known or foreign.startswith("(") else nearest(name, known) or ""
    if close.startswith("("):
        return f"unknown key {name} {close}"
    return (
        f"unknown key {name}; did you mean {close}?"
        if close
        else f"unknown key {name}; the keys are {', '.join(known)}"
    )


def describe(node: Node) -> str:
    """Describe a value for a person."""
    if node.kind is Kind.MAPPING:
        return "a mapping"
    if node.kind is Kind.LIST:
        return "a list"
    if node.value is None:
        return "nothing"
    if isinstance(node.value, bool):
        return node.text
    if isinstance(node.value, int | float):
        return f"the number {_short(node.text)}"
    return f"the text {_short(node.text)!r}"


def _short(text: str) -> str:
    line = text.strip().split("\n", 1)[0]
    return line if len(line) <= 40 else line[:37] + "..."


_EXPECTED = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}


_FORMS = {
    "AllowFailureFields": "true, false, or a mapping with exit_codes",
    "ImageFields": "an image's name, or a mapping with name or build",
    "SecretFields": "a reference such as env://NAME, or a mapping with ref",
    "CacheKeyFields": "text, or a mapping with files and prefix",
    "RetryFields": "a number, or a mapping with max",
    "ParallelFields": "a number, or a mapping with matrix",
    "NeedFields": "a job's name, or a mapping with job",
    "Service": "an image's name, or a mapping with name",
    "NetworkFields": "bridge, none or host, or a mapping with mode",
    "UlimitFields": "a number, or a mapping with soft and hard",
    "ChangesFields": "a list of globs, or a mapping with paths",
    "CacheFields": "a mapping with paths",
    "ArtifactsFields": "a mapping with paths",
    "Rule": "a mapping with if, changes, exists or when",
    "WorkflowRule": "a mapping with if, changes, exists or when",
    "Include": "a mapping with local",
}
"""The short forms of a mapping, by model."""


def may_be_secret(detail: Any) -> bool:
    """Whether the value may be a secret, which no message or record may repeat."""
    context = detail.get("ctx") or {}
    return isinstance(context.get("error"), values.Unrepeated) or context.get("class_name") == "SecretFields"


def _boolean_advice(found: Node) -> str:
    text = found.value.lower() if isinstance(found.value, str) else ""
    meant = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(text)
    if meant is not None:
        return f"; write {meant}"
    return f"; write {text} without quotes" if text in ("true", "false") else ""


def words(kind: str, detail: Any, found: Node, place: Node, is_key: bool) -> str:
    context = detail.get("ctx") or {}
    error = context.get("error")
    if isinstance(error, words_of.NotText) or kind == "string_type":
        scalar = found.kind is Kind.SCALAR and not isinstance(found.value, str)
        advice = (
            f'; write it in quotes: "{found.text}"'
            if scalar and len(found.text) <= 40
            else "; write it in quotes"
            if scalar
            else ""
        )
        if found.kind is Kind.MAPPING and len(found.value) == 1:
            key, value = next(iter(found.value.items()))
            if key == "run":
                return "a step is only the command; write it without `run:`"
            text = f"{key}: {value.text}" if value.kind is Kind.SCALAR else f"{key}: ..."
            return f"YAML parses {_short(text)!r} as a key and a value; quote the whole text, or write it below a `|`"
        return f"expected text, found {describe(found)}{advice}"
    if may_be_secret(detail) and kind == "model_type":
        return f"expected {_FORMS['SecretFields']}; a secret's value is never written here"
    if kind == "model_type" and context.get("class_name") in _FORMS:
        advice = _boolean_advice(found) if context["class_name"] == "AllowFailureFields" else ""
        return f"expected {_FORMS[context['class_name']]}, found {describe(found)}{advice}"
    if kind in _EXPECTED:
        advice = ""
        if kind == "bool_type":
            advice = _boolean_advice(found)
        elif kind == "int_type" and isinstance(found.value, str) and found.value.isdecimal():
            advice = f"; write {found.value} without quotes"
        return f"expected {_EXPECTED[kind]}, found {describe(found)}{advice}"
    if kind == "value_error":
        words = str(error)
        if isinstance(error, values.Unrepeated):
            return words
        return words if "found" in words or not words.startswith("expected") else f"{words}, found {describe(found)}"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", context["expected"])
        close = meant(found.value, allowed) if isinstance(found.value, str) and len(allowed) > 1 else ""
        choice = f"one of {', '.join(allowed)}" if len(allowed) > 1 else allowed[0]
        return f"expected {choice}, found {describe(found)}{close}"
    if kind == "string_pattern_mismatch":
        return _pattern_words(context["pattern"], place.text if is_key else str(found.value))
    if kind == "too_short":
        return "expected at least one entry, found none; add one or remove the key"
    limits = {"greater_than_equal": ("at least", "ge"), "less_than_equal": ("at most", "le")}
    if kind in limits:
        word, bound = limits[kind]
        return f"expected a number of {word} {context[bound]}, found {describe(found)}"
    return f"{str(detail['msg']).removeprefix('Value error, ')} (found {describe(found)})"


def _pattern_words(pattern: str, text: str) -> str:
    if pattern == words_of.VARIABLE:
        close = re.sub(r"[^A-Za-z0-9_]+", "_", text)
        meant = f", such as {close}" if re.fullmatch(words_of.VARIABLE, close) else ""
        return f"{text!r} is not a valid variable name: letters, digits and _, no digit first{meant}"
    if pattern == values.STAGE:
        close = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-")
        meant = f", such as {close}" if re.fullmatch(values.STAGE, close) else ""
        return f"{text!r} is not a valid stage name: lower-case letters, digits, _ and -, at most 32, and a letter first{meant}"
    return f"expected text like {pattern}, found {text!r}"


def _keys_at(model: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    """Return the allowed keys of the mapping at a location."""
    annotation: Any = model
    for part in location:
        annotation = _below(annotation, part)
    found = models.models_in(annotation)
    return [(info.alias or name) for name, info in found[0].model_fields.items()] if found else []


def _below(annotation: Any, part: str | int) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, info in annotation.model_fields.items():
            if part in (name, info.alias):
                return info.annotation
        return None
    if get_origin(annotation) is dict and isinstance(part, str):
        return get_args(annotation)[1]
    if get_origin(annotation) is list and isinstance(part, int):
        return get_args(annotation)[0]
    for argument in get_args(annotation):
        below = _below(argument, part)
        if below is not None:
            return below
    return None
