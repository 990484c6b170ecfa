"""`spec: inputs` of a file, and `$[[ inputs.NAME ]]` in its text, which is replaced before the text is parsed."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping
from typing import Any

from msgspec import Struct

from loom.util import yaml_file
from loom.util.yaml_file import LINE_BREAK, Kind, Node, YamlFile, fields_of, items_of, node_at
from loom.values import Immutable
from loom.workflow.gitlab import conditions, yaml
from loom.workflow.gitlab.variables import expand_existing
from loom.workflow.patterns import PatternError, SearchError, pattern_of

MAX_FUNCTIONS = 3
MAX_OPTIONS = 50
_BLOCK = re.compile(r"\$\[\[\s*(\S.*?\S|\S)\s*\]\]", re.DOTALL)
_DIVIDER = re.compile(r"^---(?=\s|$)", re.MULTILINE)
_HEADER = re.compile(r"^[\"']?spec[\"']?\s*:", re.MULTILINE)
_ESCAPED = re.compile(r"[^\w.,:+/@\n-]", re.ASCII)
_TRUNCATE = re.compile(r"truncate\(\s*([0-9]+)\s*,\s*([0-9]+)\s*\)")
_INPUT = re.compile(r"\$\[\[\s*inputs\.([\w-]+)\s*\]\]")
_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list),
}
_COMPONENT = ("name", "reference", "sha", "version")
_FUNCTIONS = "expand_vars, truncate(offset,length) and posix_escape"


class GivenInputs(Immutable):
    """Values from the including file, or the command line."""

    inputs: Mapping[str, Node] = {}
    texts: Mapping[str, str] = {}
    """Inputs of the command line; one that is not of type string is written as JSON."""
    include: Node | None = None
    """The include, for messages about what it lacks."""
    component: Mapping[str, str] = {}
    variables: Mapping[str, str] = {}


class _Refused(ValueError):
    """A mistake in a value or an interpolation."""


def load(file: YamlFile, given: GivenInputs) -> Node | None:
    """Parse a decoded file with the inputs given; `file.problems` gets what is wrong."""
    end = _header_end(file.text)
    if end is None:
        _undeclared(file, given, {})
        return yaml.parse(file)[0]
    header = yaml.parse(file, file.text[:end])[-1]
    if header is None or file.problems:
        return None
    values = _Inputs(file, header, given).values()
    return None if file.problems else _content(file, end, values, given)


def _header_end(text: str) -> int | None:
    """Return the end of the header: the text before a line `---` that has `spec`."""
    if not _HEADER.search(text):
        return None
    ends = (divider.start() for divider in _DIVIDER.finditer(text))
    return next((end for end in ends if _HEADER.search(text, 0, end)), None)


def say(node: Node, message: str, file: YamlFile) -> None:
    """Report a problem at a node, which may stand in the including file."""
    file.problems.append(node.file.problem(node, message, code=yaml.CODE))


def _undeclared(file: YamlFile, given: GivenInputs, declared: Collection[str]) -> None:
    """Report given inputs that the file does not declare."""
    known = (
        f"its inputs are: {', '.join(declared)}" if declared else "remove it, or add it to the file's `spec: inputs`"
    )
    for name, node in given.inputs.items():
        if name not in declared:
            say(node, f"{file.name} declares no input {name}; {known}", file)
    for name in given.texts:
        if name not in declared:
            say(_node_at(file, 0, 1), f"--input {name}: {file.name} declares no such input; {known}", file)


class _Inputs:
    """The values of a file's inputs: what was given, else the defaults, each checked."""

    def __init__(self, file: YamlFile, header: Node, given: GivenInputs) -> None:
        self.file = file
        self.given = given
        self.spec = header.get("spec")
        self.declared = fields_of(header, "spec", "inputs")
        self.found: dict[str, Any] = {}

    def values(self) -> dict[str, Any]:
        for key in fields_of(self.spec).keys() - {"inputs", "component", "description"}:
            say(self.spec_key(key), f"spec:{key} is not supported; write the inputs in this file", self.file)
        _undeclared(self.file, self.given, self.declared)
        for name, node in self.declared.items():
            try:
                self.found[name] = self._value(name, node)
            except _Refused as error:
                node_at = self.given.inputs.get(name) or self.given.include or self.spec_key("inputs", name)
                say(node_at, f"input {name} of {self.file.name}: {error}", self.file)
        return {f"inputs.{name}": value for name, value in self.found.items()} | {
            f"component.{name}": value for name, value in self.given.component.items() if name in _COMPONENT
        }

    def spec_key(self, *path: str) -> Node:
        node = node_at(self.spec, *path[:-1])
        assert node is not None  # the name is one of its keys
        return node.keys[path[-1]]

    def _value(self, name: str, spec: Node) -> Any:
        if spec.get("rules") is not None and (spec.get("options") or spec.get("default")) is not None:
            raise _Refused("`rules` excludes `options` and `default`; write them in a rule without `if`")
        if len(items_of(spec, "options")) > MAX_OPTIONS:
            raise _Refused(f"GitLab allows at most {MAX_OPTIONS} options")
        rule = self._rule(spec)
        given = self.given.inputs.get(name)
        text = self.given.texts.get(name)
        default = rule.get("default") if rule is not None else spec.get("default")
        node = given if given is not None else default
        if node is None and text is None:
            way = "--input NAME=value" if self.given.include is None else "include:inputs"
            raise _Refused(f"needs a value: it has no default; give it with {way}")
        kind = _text(spec.get("type")) or "string"
        if kind not in _TYPES:
            raise _Refused(f"unknown type {kind}; the types are {', '.join(_TYPES)}")
        value = _typed(text, kind) if text is not None else node.plain() if node is not None else None
        if not _TYPES[kind](value):
            raise _Refused(f"expected {'an' if kind == 'array' else 'a'} {kind}, found {value!r}")
        options = node_at(rule, "options") or spec.get("options")
        if options is not None and kind == "boolean":
            raise _Refused("a boolean has no `options` in GitLab")
        allowed = [option.plain() for option in items_of(options)]
        if options is not None and any(one not in allowed for one in (value if isinstance(value, list) else [value])):
            raise _Refused(f"{value!r} is not one of its options: {', '.join(map(str, allowed))}")
        if spec.get("regex") is not None and kind != "string":
            raise _Refused(f"a `regex` is for inputs of type string, and this one is of type {kind}")
        self._matches(spec.get("regex"), value)
        return value

    def _matches(self, regex: Node | None, value: Any) -> None:
        if regex is None:
            return
        text = _text(regex)
        try:
            wanted = pattern_of(text[1:-1] if len(text) > 1 and text[0] == text[-1] == "/" else text)
            if not wanted.found_in(str(value)):
                raise _Refused(f"{value!r} does not match its regex {text}")
        except (PatternError, SearchError) as error:
            raise _Refused(f"regex: {error}") from error

    def _rule(self, spec: Node) -> Node | None:
        """Return the first of `spec:inputs:NAME:rules` that holds for the inputs before it."""
        names = {name: f"INPUT_{number}" for number, name in enumerate(self.declared)}
        values = {names[name]: input_text(value) for name, value in self.found.items()}
        for rule in items_of(spec, "rules"):
            condition = _text(rule.get("if"))
            if not condition:
                return rule
            written = _INPUT.sub(lambda found: f"${names.get(found[1], 'INPUT_X')}", condition)
            try:
                if conditions.holds(written, values):
                    return rule
            except (ValueError, SearchError) as error:
                raise _Refused(f"rules:if: {error}") from error
        return None


def _typed(text: str, kind: str) -> Any:
    """Return the value that text of the command line has as this type; other text stays text."""
    try:
        return text if kind == "string" else json.loads(text)
    except ValueError:
        return text


def nodes_of(values: Mapping[str, Any], name: str) -> Mapping[str, Node]:
    """Return values as a file of this name would give them, for `GivenInputs.inputs`."""
    return (
        fields_of(yaml.parse(yaml_file.decoded(json.dumps(values).encode(), name, code=yaml.CODE))[0]) if values else {}
    )


def _text(node: Node | None) -> str:
    return node.text if node is not None and node.is_scalar else ""


def input_text(value: Any) -> str:
    """Return the text that stands for an input's value in a file, and in `GivenInputs.texts`."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


class _Piece(Struct, frozen=True):
    """The start of a part of the new text, there and in the file. `whole`: it is one position in the file."""

    new: int
    old: int
    whole: bool


def _content(file: YamlFile, end: int, values: Mapping[str, Any], given: GivenInputs) -> Node | None:
    """Parse what follows the header, with its interpolations replaced."""
    file.root = None  # which no problem is in from here on
    start = end + len("---")
    source = file.text[start:]
    text, pieces, last, length = [], [_Piece(0, start, False)], 0, 0
    for block in _BLOCK.finditer(source):
        if block[1].startswith("matrix."):
            continue  # `needs` knows it
        try:
            value = _evaluated(block[1], values, given)
        except _Refused as error:
            say(_node_at(file, start + block.start(), len(block[0])), str(error), file)
            continue
        text += [source[last : block.start()], value]
        length += block.start() - last
        pieces += [_Piece(length, start + block.start(), True), _Piece(length + len(value), start + block.end(), False)]
        length += len(value)
        last = block.end()
        if length + len(source) - last > yaml_file.MAX_BYTES:
            limit = yaml_file.MAX_BYTES // (1024 * 1024)
            said = f"with its inputs, {file.name} is larger than {limit} MiB; hand over less"
            say(_node_at(file, start + block.start(), len(block[0])), said, file)
            return None
    new = "".join([*text, source[last:]])
    return None if file.problems else yaml.parse(file, new, _origin(file.text, new, pieces), most=1)[0]


def _evaluated(expression: str, values: Mapping[str, Any], given: GivenInputs) -> str:
    name, *functions = (part.strip() for part in expression.split("|"))
    if name not in values:
        known = ", ".join(values) or "none"
        raise _Refused(f"$[[ {name} ]] is unknown here; known are: {known} (declare inputs under spec: inputs)")
    if len(functions) > MAX_FUNCTIONS:
        raise _Refused(f"$[[ {expression} ]] has more than {MAX_FUNCTIONS} functions, which GitLab refuses")
    value = values[name]
    for function in functions:
        if not isinstance(value, str):
            raise _Refused(f"$[[ {expression} ]]: {function} takes text; {name} is not of type string")
        value = applied(function, value, given)
    return input_text(value)


def applied(function: str, value: str, given: GivenInputs) -> str:
    if function == "expand_vars":
        return expand_existing(value, given.variables)
    if function == "posix_escape":
        return _ESCAPED.sub(r"\\\g<0>", value).replace("\n", "'\n'") or "''"  # as Ruby's Shellwords.shellescape
    if cut := _TRUNCATE.fullmatch(function):
        return value[int(cut[1]) : int(cut[1]) + int(cut[2])]
    raise _Refused(f"unknown function {function}; the functions are {_FUNCTIONS}")


def _line_starts(text: str) -> list[int]:
    return [0, *(found.end() for found in LINE_BREAK.finditer(text))]


def _origin(old: str, new: str, pieces: list[_Piece]) -> yaml.Origin:
    """Map positions in the new text back to the file."""
    old_lines, new_lines = _line_starts(old), _line_starts(new)
    starts = [piece.new for piece in pieces]

    def origin(line: int, column: int) -> tuple[int, int]:
        at = (new_lines[line - 1] if line <= len(new_lines) else len(new)) + column - 1
        piece = pieces[bisect_right(starts, at) - 1]
        offset = piece.old if piece.whole else piece.old + at - piece.new
        number = bisect_right(old_lines, min(offset, len(old)))
        return number, offset - old_lines[number - 1] + 1

    return origin


def _node_at(file: YamlFile, offset: int, length: int) -> Node:
    lines = _line_starts(file.text)
    number = bisect_right(lines, offset)
    return Node(file, Kind.SCALAR, None, number, offset - lines[number - 1] + 1, length)
