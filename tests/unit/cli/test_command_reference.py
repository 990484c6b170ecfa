"""The published reference of the commands is what the commands say of themselves."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_published_page_is_current() -> None:
    page = runpy.run_path(str(ROOT / "scripts" / "command_reference.py"))["page"]()
    assert (ROOT / "docs" / "reference" / "commands.md").read_text() == page, "scripts/docs commands"
