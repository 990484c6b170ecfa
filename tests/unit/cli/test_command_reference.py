"""The pages that are made from the commands are current."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(("path", "function"), [("reference/commands.md", "page"), ("man/loom.1", "man_page")])
def test_the_published_page_is_current(path: str, function: str) -> None:
    expected = runpy.run_path(str(ROOT / "scripts" / "command_reference.py"))[function]()
    assert (ROOT / "docs" / path).read_text() == expected, "scripts/docs commands"


@pytest.mark.parametrize("name", ["github", "gitlab"])
def test_the_page_of_keywords_is_current(name: str) -> None:
    script = runpy.run_path(str(ROOT / "scripts/keyword_reference.py"))
    readme = (ROOT / "README.md").read_text()
    assert (ROOT / f"docs/reference/{name}-keywords.md").read_text() == script["page"](name), f"scripts/docs {name}"
    assert readme == script["with_count"](readme), f"scripts/docs {name}"
