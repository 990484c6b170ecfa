"""Parse a user's YAML file to values with file, line and column.

A strict subset, so that all readers agree on the meaning: UTF-8, one document, text keys, unique keys, no anchors or
aliases (so no expansion bombs), no tags. Plain scalars follow YAML 1.2 (`no` and `on` are text, `1.10` is a number).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from enum import Enum
from operator import itemgetter
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct
from msgspec.structs import replace

from loom.errors import Problem
from loom.util.budget import spend
from loom.util.untrusted_files import open_inside

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 32
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_CONFLICT = re.compile("^<{7} ", re.MULTILINE)
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_NUMBER_START = frozenset("0123456789+-.")
_INT = re.compile(r"[-+]?[0-9]{1,300}|0o[0-7]{1,300}|0x[0-9a-fA-F]{1,300}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class Kind(Enum):
    SCALAR = "scalar"
    LIST = "list"
    MAPPING = "mapping"
    REFUSED = "refused"
    """An alias or a tagged value: already reported, so no second message."""
    REFERENCE = "reference"
    """GitLab's `!reference [...]`: a list of keys, replaced before anything else reads it."""


class Node:
    """One value and its position. Lines and columns count from 1.

    `value` is a str, int, float, bool or None (SCALAR), a list of nodes, or a dict of nodes (MAPPING; `keys` holds the
    keys' own nodes).
    """

    __slots__ = ("column", "file", "keys", "kind", "length", "line", "style", "text", "value")

    def __init__(self, file: YamlFile, kind: Kind, value: Any, line: int, column: int, length: int) -> None:
        self.file = file
        self.kind = kind
        self.value = value
        self.line = line
        self.column = column
        self.length = length
        self.keys: dict[str, Node] = {}
        self.text = ""
        self.style = ""

    @property
    def is_scalar(self) -> bool:
        return self.kind is Kind.SCALAR

    @property
    def is_list(self) -> bool:
        return self.kind is Kind.LIST

    @property
    def is_mapping(self) -> bool:
        return self.kind is Kind.MAPPING

    def plain(self) -> Any:
        if self.kind is Kind.MAPPING:
            return {key: child.plain() for key, child in self.value.items()}
        if self.kind is Kind.LIST:
            return [child.plain() for child in self.value]
        return self.value

    def get(self, key: str | int) -> Node | None:
        """Return the child at a key or index, or None."""
        if self.kind is Kind.MAPPING and isinstance(key, str):
            return self.value.get(key)  # type: ignore[no-any-return]
        if self.kind is Kind.LIST and isinstance(key, int) and key < len(self.value):
            return self.value[key]  # type: ignore[no-any-return]
        return None

    def find(self, *path: str | int) -> Node | None:
        """Return the node at a path of keys and indexes, or None."""
        return node_at(self, *path)

    def having(self, value: Any, kind: Kind | None = None) -> Node:
        """Return a node with another content at the same position, with the same nodes of keys; of the same kind by default."""
        copy = Node(self.file, kind or self.kind, value, self.line, self.column, self.length)
        copy.keys = self.keys
        return copy

    @property
    def owner(self) -> str:
        """The root key that contains this value in its file, also after merging; empty for the root."""
        return str(next(iter(self.file.path_to(self)), ""))

    @property
    def position(self) -> str:
        return f"{self.file.name}:{self.line}:{self.column}"


def node_at(node: Node | None, *path: str | int) -> Node | None:
    """Return the node at a path of keys and indexes, or None. The functions below accept the same path."""
    for part in path:
        node = None if node is None else node.get(part)
    return node


def items_of(node: Node | None, *path: str | int) -> list[Node]:
    """Return the items of a list; empty for other values."""
    node = node_at(node, *path)
    return node.value if node is not None and node.kind is Kind.LIST else []


def one_or_more(node: Node | None, *path: str | int) -> list[Node]:
    """Return the items of a list, or the single value in place of one."""
    node = node_at(node, *path)
    return [] if node is None else node.value if node.kind is Kind.LIST else [node]


def flat(nodes: Iterable[Node]) -> list[Node]:
    """Return the nodes, and in place of each list its items."""
    found: list[Node] = []
    for node in nodes:
        found += flat(node.value) if node.kind is Kind.LIST else [node]
    return found


def depth(node: Node) -> int:
    """Return the depth of nested lists."""
    return 1 + max((depth(item) for item in node.value), default=0) if node.kind is Kind.LIST else 0


def fields_of(node: Node | None, *path: str | int) -> dict[str, Node]:
    """Return the values of a mapping by key; empty for other values."""
    node = node_at(node, *path)
    return node.value if node is not None and node.kind is Kind.MAPPING else {}


def text_of(node: Node | None, *path: str | int) -> str:
    """Return a scalar as text, as GitLab writes numbers and truth values; empty for any other value, and for none."""
    node = node_at(node, *path)
    value = node.value if node is not None and node.is_scalar else None
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case float():
            text = repr(value)
            special = {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}.get(text)
            return special or (text.replace("e", ".0e") if "e" in text and "." not in text else text)
        case _:
            return str(value)


def truth(node: Node | None, *path: str | int, default: bool = False) -> bool:
    """Return a truth value; `default` for nothing and for other values."""
    node = node_at(node, *path)
    return node.value if node is not None and isinstance(node.value, bool) else default


def scalars_of(node: Node) -> Iterator[tuple[tuple[str | int, ...], Node]]:
    """Yield every scalar below a node with its path."""
    pending: list[tuple[tuple[str | int, ...], Node]] = [((), node)]
    while pending:
        path, current = pending.pop()
        if current.kind is Kind.MAPPING:
            pending += [((*path, key), child) for key, child in current.value.items()]
        elif current.kind is Kind.LIST:
            pending += [((*path, number), child) for number, child in enumerate(current.value)]
        elif current.kind is Kind.SCALAR:
            yield path, current


def line_in_file(node: Node, number: int) -> int:
    """Return the file's line of line `number` (from 1) of a text; the text's own line if lines don't correspond."""
    if node.style == "|":
        return node.line + number
    return node.line + 1 if node.style == ">" else node.line


class YamlFile(Struct, eq=False):
    """`name` is the file's name in messages. `root` is None when the file is empty or not YAML."""

    name: str
    text: str = ""
    root: Node | None = None
    problems: list[Problem] = []
    _lines: list[str] | None = None
    _starts: dict[Node, list[tuple[tuple[int, int], str | int]]] = {}
    """The positions of what each collection has: a mapping's keys, a list's items."""

    def path_to(self, node: Node) -> list[str | int]:
        """Return the keys and indexes that lead to a value, or a key, where it is written: of a merged one, in its template."""
        path: list[str | int] = []
        at, current = (node.line, node.column), self.root
        while current is not None and (current.kind is not node.kind or (current.line, current.column) != at):
            if (starts := self._starts.get(current)) is None:
                parts = current.keys.items() if current.kind is Kind.MAPPING else enumerate(items_of(current))
                starts = self._starts[current] = sorted(
                    (((one.line, one.column), part) for part, one in parts), key=itemgetter(0)
                )
            position = bisect_right(starts, at, key=itemgetter(0)) - 1
            if position < 0:
                break
            start, part = starts[position]
            path.append(part)
            is_key = start == at and current.kind is Kind.MAPPING and node.kind is Kind.SCALAR
            current = None if is_key else current.get(part)
        return path

    def line(self, number: int) -> str | None:
        if self._lines is None:
            self._lines = LINE_BREAK.split(self.text)
        return self._lines[number - 1] if 0 < number <= len(self._lines) else None

    def within(self, line: int, column: int) -> tuple[int, int]:
        """Return this position, or the end of the text for the line that the parser adds after an unfinished last one."""
        return (line, column) if self.line(line) is not None else (line - 1, len(self.line(line - 1) or "") + 1)

    def problem(
        self,
        node: Node | None,
        message: str,
        *,
        code: str = "WF_SCHEMA_V1",
        severity: str = "error",
        offset: int = 0,
        length: int | None = None,
    ) -> Problem:
        """Report a problem at a node (None: at the start of the file); `offset` is a position in a one-line scalar."""
        path = [] if node is None else self.path_to(node)
        line, column = (1, 1) if node is None else (node.line, node.column)
        width = 1 if node is None else node.length
        if node is not None and offset and "\n" not in node.text and node.style in ("", "'", '"'):
            column += offset + (1 if node.style else 0)
            width = 1
        return Problem(
            file=self.name,
            line=line,
            column=column,
            pointer="/" + "/".join(str(part).replace("~", "~0").replace("/", "~1") for part in path),
            message=message,
            code=code,
            severity=severity,
            source_line=self.line(line),
            length=max(1, length if length is not None else width),
        )


def problem_in_text(node: Node, message: str, *, number: int, found: str, code: str, severity: str) -> Problem:
    """Report a problem at `found` in line `number` of a text, or at the text if its lines don't correspond to the file's."""
    problem = node.file.problem(node, message, code=code, severity=severity)
    line = line_in_file(node, number)
    source = node.file.line(line) or ""
    found = found or source.strip()
    column = source.find(found, node.column - 1 if line == node.line else 0) + 1
    if not found or column == 0:
        return problem
    return replace(problem, line=line, column=column, source_line=source, length=len(found))


def read(path: Path, name: str, *, code: str = "WF_SCHEMA_V1", within: Path | None = None) -> YamlFile:
    """Read and parse a file; errors in its content are in `problems`. OSError when it can't be read. `within`: as below."""
    return parse(read_bytes(path, within=within), name, code=code)


def read_bytes(path: Path, *, within: Path | None = None) -> bytes:
    """Read a regular file, up to one byte more than `MAX_BYTES`. OSError for anything else.

    RequestError for one of the directory `within` that is a link which leads out of it.
    """
    with open_inside(path, within) as file:
        return file.read(MAX_BYTES + 1)


def parse(data: bytes, name: str, *, code: str = "WF_SCHEMA_V1") -> YamlFile:
    """Parse a file's bytes; never raises for their content."""
    file = decoded(data, name, code=code)
    if not file.problems:
        NodeBuilder(file, code).build()
    return file


def decoded(data: bytes, name: str, *, code: str) -> YamlFile:
    """Return the file with its text, not parsed; `problems` says why it can't be parsed."""
    file = YamlFile(name=name)
    if len(data) > MAX_BYTES:
        limit = MAX_BYTES // (1024 * 1024)
        file.problems.append(
            file.problem(None, f"the file is larger than {limit} MiB; split it with include", code=code)
        )
        return file
    try:
        file.text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig", "replace")
        file.text = data.decode("utf-8", "replace")
        node = _node_at(file, before)
        file.problems.append(file.problem(node, "the file is not UTF-8 here; save it as UTF-8", code=code))
        return file
    forbidden = _FORBIDDEN.search(file.text)
    if forbidden:
        node = _node_at(file, file.text[: forbidden.start()])
        what = "a NUL byte" if forbidden[0] == "\0" else f"the control character U+{ord(forbidden[0]):04X}"
        file.problems.append(file.problem(node, f"{what} is not allowed in YAML; remove it", code=code))
    return file


def _node_at(file: YamlFile, before: str) -> Node:
    lines = LINE_BREAK.split(before)
    return Node(file, Kind.REFUSED, None, len(lines), len(lines[-1]) + 1, 1)


class _Fatal(Exception):
    """Stop: the rest of the file can't be parsed."""


class NodeBuilder:
    """Convert parser events to nodes with an explicit stack, so nesting can't exhaust Python's.

    The methods without an underscore say what the strict subset is; the dialect of another CI system has its own.
    """

    max_depth = MAX_DEPTH

    def __init__(self, file: YamlFile, code: str) -> None:
        self.file = file
        self.code = code

    def build(self) -> None:
        try:
            self.file.root = self._document(iter(yaml.parse(self.source, Loader=_LOADER)))
        except yaml.MarkedYAMLError as error:
            self._syntax(error)
        except yaml.YAMLError as error:
            self.say(None, f"not valid YAML: {error}")
        except _Fatal:
            pass
        self.file.problems.sort(key=lambda problem: (problem.line, problem.column))

    @property
    def source(self) -> str:
        return self.file.text

    def position(self, mark: Any) -> tuple[int, int]:
        """Return line and column, from 1, of a mark in `source`."""
        return self.file.within(mark.line + 1, mark.column + 1)

    def resolve(self, text: str) -> Any:
        return _resolve(text)

    def say(self, node: Node | None, message: str) -> None:
        self.file.problems.append(self.file.problem(node, message, code=self.code))

    def _document(self, events: Iterator[Any]) -> Node | None:
        file = self.file
        root: Node | None = None
        stack: list[tuple[Node, list[Any]]] = []  # a collection, and [pending key node] for a mapping
        documents = 0
        for event in events:
            kind = type(event)
            if kind is yaml.ScalarEvent:
                mark, end = event.start_mark, event.end_mark
                line, column = self.position(mark)
                length = end.column - mark.column if end.line == mark.line else len(file.line(line) or "") or 1
                text = event.value
                value = self.resolve(text) if not event.style else text
                node = Node(file, Kind.SCALAR, value, line, column, length)
                node.text = text
                node.style = event.style or ""
                if event.anchor or event.tag:
                    self.decorated(event, node)
                if "\0" in text:
                    self.say(node, "a NUL byte: no name, variable or script can hold one; remove it")
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                mark = event.start_mark
                mapping = kind is yaml.MappingStartEvent
                empty: Any = {} if mapping else []
                node = Node(file, Kind.MAPPING if mapping else Kind.LIST, empty, *self.position(mark), 1)
                if event.anchor or event.tag:
                    self.decorated(event, node)
                if len(stack) >= self.max_depth:
                    self.say(node, f"nested deeper than {self.max_depth} levels")
                    raise _Fatal
                stack.append((node, []))
                continue
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                node, _ = stack.pop()
            elif kind is yaml.AliasEvent:
                node = self.alias(event, [parent for parent, _ in stack])
            elif kind is yaml.DocumentStartEvent:
                documents += 1
                if documents > 1:
                    if not self.another(Node(file, Kind.REFUSED, None, *self.position(event.start_mark), 3), root):
                        return root
                    root = None
                continue
            else:
                continue
            spend("values", node)
            if stack:
                self.add(stack[-1], node)
            else:
                root = node
        if root is not None and root.kind is Kind.SCALAR and root.value is None:
            return None
        return root

    def another(self, start: Node, before: Node | None) -> bool:
        """Take one more document of the file, after `before`; False to stop."""
        self.say(start, "a second document starts here; keep one document per file")
        return False

    def alias(self, event: Any, within: list[Node]) -> Node:
        """Return the value of an alias; `within` are the open collections."""
        mark, end = event.start_mark, event.end_mark
        node = Node(self.file, Kind.REFUSED, None, *self.position(mark), end.column - mark.column)
        self.say(node, f"aliases are not allowed (*{event.anchor}); share with extends, or quote the text if it is one")
        return node

    def add(self, top: tuple[Node, list[Any]], node: Node) -> None:
        """Add a value to the open collection, in whose list a mapping's key waits for its value."""
        parent, pending = top
        if isinstance(parent.value, list):
            parent.value.append(node)
        elif not pending:
            pending.append(node)
        else:
            key = pending.pop()
            if key.kind is not Kind.SCALAR:
                if key.kind is not Kind.REFUSED:
                    self.say(key, "a key must be text")
            elif not isinstance(key.value, str):
                if key.text == "<<":
                    return
                self.say(key, f'a key must be text; write it in quotes: "{key.text}"')
            elif key.value in parent.value:
                first = parent.keys[key.value]
                self.say(key, f"the key {key.value} is a duplicate (first on line {first.line}); keep one")
            else:
                parent.value[key.value] = node
                parent.keys[key.value] = key

    def decorated(self, event: Any, node: Node) -> None:
        if event.anchor:
            node.length = len(event.anchor) + 1
            self.say(node, f"anchors are not allowed (&{event.anchor}); share with extends, default or variables")
        elif event.tag == "!reference":
            node.length = len(event.tag)
            self.say(node, "tags are not allowed (!reference); share steps with extends or a template")
            node.kind = Kind.REFUSED
        else:
            short = event.tag.replace("tag:yaml.org,2002:", "!!")
            node.length = len(short)
            self.say(node, f"tags are not allowed ({short}); remove it, or quote the text if it starts with !")
            node.kind = Kind.REFUSED

    def _syntax(self, error: yaml.MarkedYAMLError) -> None:
        mark = error.problem_mark or error.context_mark
        node = None
        if mark is not None:
            node = Node(self.file, Kind.REFUSED, None, *self.position(mark), 1)
        if marker := _CONFLICT.search(self.file.text):
            node = Node(self.file, Kind.REFUSED, None, self.file.text.count("\n", 0, marker.start()) + 1, 1, 7)
            self.say(node, "git left a conflict of a merge here; choose one of the two versions")
            return
        reason = error.problem or error.context or "the syntax"
        if "quoted scalar" in (error.context or "") and "end of stream" in reason and error.context_mark is not None:
            mark = error.context_mark
            node = Node(self.file, Kind.REFUSED, None, *self.position(mark), 1)
            self.say(node, "not valid YAML: the quote that opens here is never closed")
            return
        self.say(node, f"not valid YAML: {reason}{self._advice(f'{error.context} {reason}', error, node)}")

    def _advice(self, reason: str, error: yaml.MarkedYAMLError, node: Node | None) -> str:
        source = (self.file.line(node.line) or "") if node else ""
        if node and "\t" in source[: max(0, node.column)] and source.lstrip(" ").startswith("\t"):
            return "; a tab can't indent YAML, use spaces"
        if "mapping values are not allowed" in reason:
            return "; put the whole text in quotes if it holds a colon and a space"
        if any(word in reason for word in ("alias", "anchor", "tag", "cannot start any token")):
            return "; text that starts with this character needs quotes"
        if "did not find expected '-' indicator" in reason or "did not find expected key" in reason:
            return "; check the indentation of this line and of the lines before it"
        if error.context_mark is not None and node is not None and error.context_mark.line + 1 != node.line:
            return f" ({error.context} that starts on line {error.context_mark.line + 1})"
        return ""


def _resolve(text: str) -> Any:
    """Parse a plain scalar by YAML 1.2's core schema."""
    if text in _NULL:
        return None
    first = text[0]
    if first in "tTfF":
        if text in _TRUE:
            return True
        if text in _FALSE:
            return False
    elif first in _NUMBER_START:
        if _INT.fullmatch(text):
            base = {"0o": 8, "0x": 16}.get(text[:2], 10)
            return int(text[2:] if base != 10 else text, base)
        if _FLOAT.fullmatch(text):
            special = text[-3:].lower()
            return float(text.replace(".", "") if special in ("inf", "nan") else text)
    return text
