"""YAML 1.1 as GitLab reads it: anchors, merge keys, `!reference`, and the words that its parser takes for other types."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from loom.util.yaml_file import Kind, Node, YamlFile, text_of
from loom.workflow.aliases import AnchorBuilder

CODE = "GL_INVALID"
_TRUE, _FALSE = frozenset({"true", "yes", "on"}), frozenset({"false", "no", "off"})
_FLOAT = re.compile(r"[-+]?([0-9][0-9_,]*)?\.[0-9]*([eE][+-][0-9]+)?")
_INTEGER = re.compile(
    r"[-+]?(0b[_,]*[01][01_,]*|0[0-7_,]*|0x[_,]*[0-9a-fA-F][0-9a-fA-F_,]*|[1-9]([0-9]|,[0-9]|_[0-9])*)"
)
_BASE_60 = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9]){1,2}(\.[0-9_]*)?")
_DATE = re.compile(
    r"[0-9]{4}-(1[012]|0?[0-9])-([12][0-9]|3[01]|0?[0-9])"
    r"|-?[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt]|\s+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}(\.[0-9]*)?(\s*(Z|[-+][0-9]{1,2}:?([0-9]{2})?))?"
)
_PLAIN_START = frozenset("0123456789+-.:~tTfFyYnNoO")

Origin = Callable[[int, int], tuple[int, int]]
"""From a line and column of the text that is parsed to those of the user's file."""


class _Date:
    """A date of YAML 1.1; GitLab refuses it."""


def parse(
    file: YamlFile, source: str | None = None, origin: Origin | None = None, *, most: int = 2
) -> list[Node | None]:
    """Parse the documents of a decoded file; `file.problems` gets what is wrong, `file.root` the last document.

    `source`: the text to parse instead, which `origin` leads back to the file. `most`: how many documents it may have.
    """
    builder = Documents(file, file.text if source is None else source, origin, most)
    builder.build()
    return [*builder.before, file.root]


class Documents(AnchorBuilder):
    def __init__(self, file: YamlFile, source: str, origin: Origin | None, most: int) -> None:
        super().__init__(file, CODE)
        self._most = most
        self._source = source
        self._origin = origin
        self.before: list[Node | None] = []
        """The documents before the last one."""

    @property
    def source(self) -> str:
        return self._source

    def position(self, mark: Any) -> tuple[int, int]:
        return super().position(mark) if self._origin is None else self._origin(mark.line + 1, mark.column + 1)

    def resolve(self, text: str) -> Any:
        return resolve(text)

    def another(self, start: Node, before: Node | None) -> bool:
        if len(self.before) + 1 == self._most:
            self.say(start, "a third document starts here; a file has a header with `spec` and one document after it")
            return False
        self.before.append(before)
        self.anchors.clear()
        return True

    def tagged(self, tag: str, node: Node) -> None:
        tag = tag.replace("tag:yaml.org,2002:", "!!")
        if tag == "!reference" and node.is_list:
            node.kind = Kind.REFERENCE
        elif tag == "!!str" and node.is_scalar:
            node.value = node.text
        else:
            node.length = len(tag)
            self.say(
                node, f"unknown tag {tag}; GitLab knows !reference [job, key], and text that starts with ! needs quotes"
            )
            node.kind = Kind.REFUSED

    def add(self, top: tuple[Node, list[Any]], node: Node) -> None:
        parent, pending = top
        if isinstance(node.value, _Date):
            self.say(node, f'{node.text} is a date in YAML, which GitLab refuses; write it in quotes: "{node.text}"')
            node.value = node.text
        if isinstance(parent.value, list):
            parent.value.append(node)
        elif not pending:
            pending.append(node)
        else:
            self._pair(parent, pending.pop(), node)

    def _pair(self, parent: Node, key: Node, value: Node) -> None:
        if not key.is_scalar:
            self.say(key, "a key must be text")
        elif key.text == "<<" and not key.style and self._merged(parent, value):
            return
        else:
            name = text_of(key)
            parent.value[name] = value
            parent.keys[name] = key

    def _merged(self, parent: Node, value: Node) -> bool:
        """Merge mappings into the open one: keys before `<<` give way, keys after it win, as in Ruby's parser."""
        several = value.value if value.is_list else [value]
        if not all(one.is_mapping for one in several):
            self.say(value, "<< merges a mapping or a list of mappings; for one of another file use extends")
            return True
        for one in reversed(several):
            parent.value.update(one.value)
            parent.keys.update(one.keys)
        return True


def resolve(text: str) -> Any:
    """Parse a plain scalar by YAML 1.1 with the choices of Ruby's parser."""
    if not text or text == "~":
        return None
    if text[0] not in _PLAIN_START:
        return text
    lower = text.lower() if len(text) <= 5 else ""
    if lower == "null":
        return None
    if lower in _TRUE or lower in _FALSE:
        return lower in _TRUE
    return _number(text)


def _number(text: str) -> Any:
    if text[0] == ":":
        return text[1:].strip("\"'") if len(text) > 1 else text  # a Ruby symbol
    if _DATE.fullmatch(text):
        return _Date()
    if text.lower().lstrip("+-") in (".inf", ".nan"):
        return float(text.replace(".", ""))
    if _BASE_60.fullmatch(text):
        return _base_60(text)
    if _FLOAT.fullmatch(text) and re.search(r"[0-9]", text.lower().partition("e")[0]):
        return float(re.sub(r"[,_]", "", text))
    if _INTEGER.fullmatch(text):
        return _integer(re.sub(r"[,_]", "", text))
    return text


def _integer(text: str) -> Any:
    digits = text.lstrip("+-")
    base = 2 if digits.startswith("0b") else 16 if digits.startswith("0x") else 8 if digits.startswith("0") else 10
    return int(digits, base) * (-1 if text[0] == "-" else 1)


def _base_60(text: str) -> float:
    """Return hours, minutes and seconds in seconds; a sign is that of the hours alone, as in Ruby's parser."""
    parts = [float(part) if "." in part else int(part) for part in text.replace("_", "").split(":")]
    return sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
