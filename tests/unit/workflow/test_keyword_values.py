"""Every keyword of GitLab's and GitHub's files with the values that it takes, beside this file.

`LOOM_TEST_ACCEPT=1 pytest tests/unit/workflow/test_keyword_values.py` writes the present ones; read them before you commit them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from loom.workflow.github import keywords as github
from loom.workflow.github.shapes import GitHubShapes
from loom.workflow.github.yaml import parse
from loom.workflow.gitlab import keywords as gitlab
from loom.workflow.gitlab.shapes import GitLabShapes
from loom.workflow.keywords import Keyword, by_name, shape_of
from loom.workflow.shapes import Shapes

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


def lines(shapes: type[Shapes], keywords: tuple[Keyword, ...]) -> Iterator[str]:
    table = by_name(keywords)
    for keyword in keywords:
        found = [name for name, text in VALUES.items() if fits(shapes, keyword, table, text)]
        shape = shape_of(keyword.shape)
        words = [*shape.words, *(f"[{word}]" for word in (shape.items.words if shape.items is not None else ()))]
        yield f"{keyword.name}: {', '.join(found)}" + (f"; {' '.join(words)}" if words else "")


def fits(shapes: type[Shapes], keyword: Keyword, table: Mapping[str, Keyword], text: str) -> bool:
    node = parse(text.encode(), "f").root
    assert node is not None
    made = shapes()
    made.value(node, keyword, table, ())
    return not any(" expected " in f" {problem.message}" for problem in made.problems)
