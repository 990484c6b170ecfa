"""Every keyword of GitLab's and GitHub's files with the values that it takes, beside this file.

`LOOM_TEST_ACCEPT=1 pytest tests/unit/workflow/test_keyword_values.py` writes the present ones; read them before you commit them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from loom.workflow.github import keywords as github
from loom.workflow.github.shapes import GitHubShapes
from loom.workflow.github.yaml import parse
from loom.workflow.gitlab import keywords as gitlab
from loom.workflow.gitlab.shapes import GitLabShapes
from loom.workflow.keywords import Keyword, Table, shape_of, tabled
from loom.workflow.native.values import TYPES, Type
from loom.workflow.shapes import Shapes
from loom.workflow.words import NotA

VALUES = {
    "text": "x",
    "number": "3",
    "fraction": "1.5",
    "boolean": "true",
    "duration": "5 minutes",
    "mapping": "{}",
    "mapping of any": "{any: x}",
    "texts": "[x]",
    "numbers": "[3]",
    "mappings": "[{}]",
    "lists": "[[x]]",
    "expression": "${{ x }}",
}
LANGUAGES = {
    "gitlab": (GitLabShapes, (*gitlab.ROOT_KEYWORDS, *gitlab.JOB)),
    "github": (GitHubShapes, (*github.ROOT_KEYWORDS, *github.JOB)),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_values_of_every_keyword(language: str) -> None:
    shapes, keywords = LANGUAGES[language]
    said = "".join(f"{line}\n" for line in lines(shapes, keywords))
    beside = Path(__file__).with_name(f"{language}_values.txt")
    if os.environ.get("LOOM_TEST_ACCEPT"):
        beside.write_text(said)
    assert said == beside.read_text()


NATIVE: tuple[object, ...] = (
    *(True, 0, 1, 3, 11, 256, 70_000, 1.5, 0.001, 5000.0, -1, None, [], ["sh", "-c"], ["a", 1], {}),
    *("", " ", "x", " x ", "X Y", "two\nlines", "a/b", "a/../b", "/a", "~/a", "/a:size=1m", "/", "a*", "[", "$X", "1x"),
    *("all", "2", "02", "device=0,1", "1.5", "1.", "0", "0s", "90s", "1h30m", "512m", "1k", "env://X", "ENV:x", "x://"),
    *("nofile", "nofiles", "10.0.0.1", "::1", "fe80::1%1", "host-gateway", "nowhere", "1000", "0:-1", "me:4294967296"),
    *("linux/amd64", "amd", "a/b/c/d", "(", "bash", "/bin/sh", "sh -e", "sh 'x", "/dev/fuse", "/dev/x:/y:rw", "v/c=n"),
    *("my-net", ".x", "x" * 33, "x" * 65, "A_B", "1a", "a.b", '$A == "b"', "$A ==", "junit"),
)


def test_what_a_type_of_looms_language_makes_of_each_value() -> None:
    said = ""
    for name, kind in TYPES.items():
        made: dict[str, list[str]] = {}
        for value in NATIVE:
            made.setdefault(parsed(kind, value), []).append(repr(value))
        said += f"{name}\n" + "".join(f"  {result}: {', '.join(made[result])}\n" for result in made)
    beside = Path(__file__).with_name("native_values.txt")
    if os.environ.get("LOOM_TEST_ACCEPT"):
        beside.write_text(said)
    assert said == beside.read_text()


def parsed(kind: Type, value: object) -> str:
    """Return what a type makes of a value, or the reason of its refusal."""
    try:
        found = kind.parse(value)
    except NotA as error:
        return f"expected {error}"
    except ValueError as error:
        said = str(error).replace(repr(value), "{}").replace(f"'{value}'", "{}")
        return f"{type(error).__name__}: {said.replace(f' {value}', ' {}') if value else said}"
    if repr(found) == repr(value):
        return "as it is"
    return repr(found) if isinstance(found, bool | int | float | str | list) else type(found).__name__


def lines(shapes: type[Shapes], keywords: tuple[Keyword, ...]) -> Iterator[str]:
    table = {"default": {}, **tabled(keywords)}
    for keyword in keywords:
        found = [name for name, text in VALUES.items() if fits(shapes, keyword, table, text)]
        shape = shape_of(keyword.shape)
        words = [*shape.words, *(f"[{word}]" for word in (shape.items.words if shape.items is not None else ()))]
        yield f"{keyword.name}: {', '.join(found)}" + (f"; {' '.join(words)}" if words else "")


def fits(shapes: type[Shapes], keyword: Keyword, table: Table, text: str) -> bool:
    root = parse(f"{keyword.name.rpartition(':')[2]}: {text}".encode(), "f").root
    assert root is not None
    (node,) = root.value.values()
    made = shapes()
    made.value(node, keyword, table)
    return not any(problem.message.startswith("expected ") for problem in made.found)
