"""The words for wrong values, each with a valid form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from loom.util.units import meant
from loom.util.yaml_file import Node
from loom.workflow.keywords import Shape


def describe(node: Node) -> str:
    if node.is_mapping:
        return "a mapping"
    if node.is_list:
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


def expected(what: str, found: Node) -> str:
    return f"expected {what}, found {describe(found)}"


def unfit(found: Node, shape: Shape, types: Iterable[str], form: str = "") -> str:
    """Return the message that a value has none of a shape's `types`, and the way to make it one.

    `form` is what the message calls the shape's mapping, with its short form.
    """
    if found.is_scalar and found.value is None:
        return "expected a value, found nothing; give one or remove the key"
    what = form or " or ".join(dict.fromkeys([*types, *_others(shape)]))
    advice = meant(found.value, shape.words) if isinstance(found.value, str) and len(shape.words) > 1 else ""
    is_text = "text" in types and not form
    if is_text and found.is_mapping and len(found.value) == 1:
        key, value = next(iter(found.value.items()))
        text = f"{key}: {value.text}" if value.is_scalar else f"{key}: ..."
        advice = f": YAML parses {_short(text)!r} as a key and a value; quote the whole text, or write it below a `|`"
    elif is_text and found.is_scalar:
        advice += "; write it in quotes" + (f': "{found.text}"' if len(found.text) <= 40 else "")
    return expected(what, found) + advice


def _others(shape: Shape) -> Iterator[str]:
    if "map" in shape.kinds or "open" in shape.kinds:
        yield "a mapping"
    if shape.words:
        one_of = "one of " if len(shape.words) > 1 else ""
        yield f"{one_of}{', '.join(shape.words)}" if len(shape.words) <= 8 else "one of the documented words"
    if shape.items is not None:
        yield "a list"


def refused(why: str, found: Node) -> str:
    """Add the value to a reason that says what is expected."""
    return why if "found" in why or not why.startswith("expected") else f"{why}, found {describe(found)}"
