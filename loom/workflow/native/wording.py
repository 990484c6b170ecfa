"""The words for wrong values, each with a valid form."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from loom.util.units import meant
from loom.util.yaml_file import Kind, Node
from loom.workflow.native.keywords import JOB_KEYS


def unknown_key(name: str, known: Collection[str], *, in_default: bool) -> str:
    if in_default and name in JOB_KEYS:
        return f"{name} can't be a default; put it into a template and extend that"
    return f"unknown key {name}" + (meant(name, known) or f"; the keys are {', '.join(known)}")


def describe(node: Node) -> str:
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


def expected(what: str, found: Node) -> str:
    return f"expected {what}, found {describe(found)}"


def no_text(found: Node) -> str:
    """Return the message that a value should be text, and the way to make it one."""
    if found.kind is Kind.MAPPING and len(found.value) == 1:
        key, value = next(iter(found.value.items()))
        text = f"{key}: {value.text}" if value.kind is Kind.SCALAR else f"{key}: ..."
        return f"YAML parses {_short(text)!r} as a key and a value; quote the whole text, or write it below a `|`"
    quoted = f': "{found.text}"' if len(found.text) <= 40 else ""
    return expected("text", found) + (f"; write it in quotes{quoted}" if found.kind is Kind.SCALAR else "")


def one_of(words: Sequence[str], found: Node) -> str:
    close = meant(found.value, words) if isinstance(found.value, str) and len(words) > 1 else ""
    return expected(f"one of {', '.join(words)}" if len(words) > 1 else words[0], found) + close


def refused(why: str, found: Node) -> str:
    """Add the value to a reason that says what is expected."""
    return why if "found" in why or not why.startswith("expected") else f"{why}, found {describe(found)}"
