"""The pages that are made from the commands are current."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(("path", "function"), [("reference/commands.md", "page"), ("man/loom.1", "man_page")])
def test_the_published_page_is_current(path: str, function: str) -> None:
    expected = runpy.run_path(str(ROOT / "scripts" / "command_reference.py"))[function]()
    assert (ROOT / "docs" / path).read_text() == expected, "scripts/docs commands"


def test_the_page_of_gitlabs_keywords_is_current() -> None:
    expected = runpy.run_path(str(ROOT / "scripts/gitlab_keywords.py"))["page"]()
    assert (ROOT / "docs/reference/gitlab-keywords.md").read_text() == expected, "scripts/docs gitlab"
