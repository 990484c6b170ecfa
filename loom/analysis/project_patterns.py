"""The formats that a project adds: `.loom/patterns.yml`. Expressions of a project are searched with a time limit."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from loom.analysis import problem_matchers
from loom.analysis.formats import GROUPS, Finder, Format, Reader
from loom.errors import Problem, RequestError, WorkflowError
from loom.util import yaml_file
from loom.util.untrusted_files import read_regular
from loom.util.yaml_file import Kind, Node
from loom.workflow.messages import Problems
from loom.workflow.native.models import Model
from loom.workflow.native.shapes import Shapes
from loom.workflow.native.wording import describe
from loom.workflow.patterns import PatternError, Search, SearchError, pattern_of

NAME = ".loom/patterns.yml"
MOST_FORMATS = 50
LARGEST_FILE = 1_000_000
"""Of a file of problem matchers, in bytes."""


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}", text):
        raise ValueError("expected at most 40 letters, digits, dots, hyphens and underscores")
    return text


def _expression(text: str) -> str:
    try:
        unknown = set(re.compile(pattern_of(text).source).groupindex) - set(GROUPS)
    except PatternError as error:
        raise ValueError(str(error)) from error
    if unknown:
        raise ValueError(f"unknown group {min(unknown)}; the groups are {', '.join(GROUPS)}")
    return text


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _telling(expressions: list[str]) -> list[str]:
    if not any(f"(?P<{group}>" in text for text in expressions for group in ("test", "message")):
        raise ValueError("expected a group (?P<test>...) or (?P<message>...) in an expression")
    return expressions


class _Entry(Model):
    """The fields of `Format`."""

    name: Annotated[str, AfterValidator(_name)]
    pattern: Annotated[
        list[Annotated[str, AfterValidator(_expression)]],
        Field(min_length=1, max_length=10),
        BeforeValidator(_as_list),
        AfterValidator(_telling),
    ]
    within: int = Field(default=0, ge=0, le=200)
    repeat: bool = False
    words: list[Annotated[str, Field(min_length=2, max_length=100)]] = Field(default=[], max_length=20)


class _Matchers(Model):
    """A file of GitHub's problem matchers, relative to the project."""

    matchers: Annotated[str, Field(min_length=1)]


def load(root: Path) -> list[Format]:
    """Read the formats of a project; none where it has no such file. WorkflowError, with the place of each mistake."""
    problems, formats = read(root)
    if problems:
        raise WorkflowError(problems)
    return formats


def read(root: Path) -> tuple[Sequence[Problem], list[Format]]:
    """Return what is wrong with the file, and the formats where nothing is."""
    try:
        file = yaml_file.read(root / NAME, NAME, within=root)
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise RequestError(f"{NAME} can't be read: {error.strerror or error}") from error
    if file.problems or file.root is None:
        return file.problems, []
    problems = Problems()
    if file.root.kind is not Kind.LIST or len(file.root.value) > MOST_FORMATS:
        problems.say(file.root, "/", f"expected a list of at most {MOST_FORMATS} formats, found {describe(file.root)}")
        return problems.found, []
    shapes = Shapes(problems, nulls=file.has_nulls)
    formats: list[Format] = []
    for number, item in enumerate(file.root.value):
        if (matchers := item.get("matchers")) is not None:
            if shapes.validated(_Matchers, item, (number,)) is not None:
                formats += _imported(root, matchers, problems)
        elif (entry := shapes.validated(_Entry, item, (number,))) is not None:
            formats.append(Format(**entry.model_dump()))
    return problems.found, formats


def _imported(root: Path, path: Node, problems: Problems) -> list[Format]:
    file = Path(os.path.realpath(root / str(path.value)))
    if not file.is_relative_to(os.path.realpath(root)):
        problems.say(path, "matchers", f"{path.value} is outside of the project")
        return []
    try:
        return problem_matchers.formats(read_regular(file, at_most=LARGEST_FILE, judged=True))
    except OSError as error:
        problems.say(path, "matchers", f"{path.value} can't be read: {error.strerror or error}")
    except ValueError as error:
        problems.say(path, "matchers", f"{path.value}: {error}")
    return []


def readers(formats: Sequence[Format]) -> list[Reader]:
    """Prepare the formats. RequestError from searches that take too long."""
    return [Reader(each, [_finder(each.name, text) for text in each.expressions]) for each in formats]


def _finder(name: str, text: str) -> Finder:
    search = Search(pattern_of(text))

    def found(line: str) -> Mapping[str, str | None] | None:
        try:
            match = search.first_in(line)
        except SearchError as error:
            raise RequestError(f"{NAME}: {name}: {error}") from error
        return None if match is None else match.groupdict()

    return found
