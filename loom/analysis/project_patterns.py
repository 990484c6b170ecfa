"""The formats that a project adds: `.loom/patterns.yml`. Expressions of a project are searched with a time limit."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from loom.analysis import problem_matchers
from loom.analysis.formats import GROUPS, Format, Reader
from loom.errors import Problem, RequestError, WorkflowError
from loom.util import yaml_file
from loom.util.untrusted_files import read_regular
from loom.util.yaml_file import Kind, Node
from loom.workflow.keywords import Keyword, tabled
from loom.workflow.messages import Problems
from loom.workflow.native.checker import Checker
from loom.workflow.native.values import between
from loom.workflow.patterns import pattern_of
from loom.workflow.shapes import Parser
from loom.workflow.wording import describe, expected
from loom.workflow.words import text_in

NAME = ".loom/patterns.yml"
MOST_FORMATS, MOST_EXPRESSIONS, MOST_WORDS = 50, 10, 20
LARGEST_FILE = 1_000_000


def _name(value: object) -> str:
    text = text_in(value)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}", text):
        raise ValueError("expected at most 40 letters, digits, dots, hyphens and underscores")
    return text


def _expression(value: object) -> str:
    text = text_in(value)
    unknown = set(re.compile(pattern_of(text).source).groupindex) - set(GROUPS)  # PatternError is a ValueError
    if unknown:
        raise ValueError(f"unknown group {min(unknown)}; the groups are {', '.join(GROUPS)}")
    return text


def _word(value: object) -> str:
    text = text_in(value)
    if not 2 <= len(text) <= 100:
        raise ValueError("expected a text of 2 to 100 characters")
    return text


def _wrong(entry: Mapping[str, Any]) -> str | None:
    """Return the mistake in the combination of a format's expressions and words."""
    expressions, words = entry.get("pattern", ()), entry.get("words", ())
    if expressions and not any(f"(?P<{group}>" in text for text in expressions for group in ("test", "message")):
        return "expected a group (?P<test>...) or (?P<message>...) in an expression"
    if len(expressions) > MOST_EXPRESSIONS or len(words) > MOST_WORDS:
        return f"expected at most {MOST_EXPRESSIONS} expressions and {MOST_WORDS} words"
    return None


class _Formats(Checker):
    parsers: ClassVar[Mapping[str, Parser]] = {
        **Checker.parsers,
        "lines": between(0, 200).parse,
        "name": _name,
        "expression": _expression,
        "word": _word,
    }


_FORMAT = tabled(
    (
        Keyword("name", "name", required=True),
        Keyword("pattern", "expression | [expression]", required=True, filled=True),
        Keyword("within", "lines"),
        Keyword("repeat", "boolean"),
        Keyword("words", "[word]"),
    )
)
_MATCHERS = tabled((Keyword("matchers", "line", required=True),))
"""A file of GitHub's problem matchers, relative to the project."""


def readers(root: Path) -> list[Reader]:
    """Prepare the formats of a project; none where it has no such file. WorkflowError, with the position of each mistake;
    RequestError from searches that take too long."""
    problems, formats = read(root)
    if problems:
        raise WorkflowError(problems)
    return problem_matchers.limited(formats, NAME)


def read(root: Path) -> tuple[Sequence[Problem], list[Format]]:
    """Return the file's problems, and its formats if there are none."""
    try:
        file = yaml_file.read(root / NAME, NAME, within=root)
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise RequestError(f"{NAME} can't be read: {error.strerror or error}") from error
    if file.problems or file.root is None:
        return file.problems, []
    problems = _Formats()
    if file.root.kind is not Kind.LIST or len(file.root.value) > MOST_FORMATS:
        problems.say(file.root, f"expected a list of at most {MOST_FORMATS} formats, found {describe(file.root)}")
        return problems.found, []
    formats: list[Format] = []
    for item in file.root.value:
        matchers = item.get("matchers")
        if item.kind is not Kind.MAPPING:
            problems.say(item, expected("a mapping", item))
        elif (fields := problems.fields(item, "", _FORMAT if matchers is None else _MATCHERS)) is None:
            continue
        elif matchers is not None:
            formats += _imported(root, matchers, problems)
        elif (why := _wrong(fields)) is not None:
            problems.say(item.value["pattern"], why)
        else:
            formats.append(Format(**fields))
    return problems.found, formats


def _imported(root: Path, path: Node, problems: Problems) -> list[Format]:
    file = Path(os.path.realpath(root / str(path.value)))
    if not file.is_relative_to(os.path.realpath(root)):
        problems.say(path, f"{path.value} is outside of the project")
        return []
    try:
        return problem_matchers.formats(read_regular(file, at_most=LARGEST_FILE, judged=True))
    except OSError as error:
        problems.say(path, f"{path.value} can't be read: {error.strerror or error}")
    except ValueError as error:
        problems.say(path, f"{path.value}: {error}")
    return []
