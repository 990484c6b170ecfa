"""The reference pages name every key, warning and setting there is."""

import re
from pathlib import Path

import pytest

from loom import config, workflow
from loom.resolve import problems_of
from loom.workflow import models

ROOT = Path(__file__).parents[3]
PAGES = ROOT / "docs/reference"


def test_every_key_of_the_language_is_in_the_reference() -> None:
    text = (PAGES / "workflow.md").read_text()
    words = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"`([^`]*)`", text))))
    found = {key for model in (models.Root, models.Job) for key in keys_of(model)}
    assert found - words == set()


def keys_of(model: type[models.Model]) -> set[str]:
    keys = set()
    for name, field in model.model_fields.items():
        keys.add(field.alias or name)
        for inner in models.models_in(field.annotation):
            keys |= keys_of(inner)  # type: ignore[arg-type]
    return keys - {
        "soft",
        "hard",
        "count",
        "local",
        "tcp",
        "command",
        "http",
        "log",
        "interval",
    }  # services.md has the probes


def test_every_warning_is_in_the_reference() -> None:
    codes = set(re.findall(r'"(WF_[A-Z_]+)"', (ROOT / "loom/workflow/lint.py").read_text()))
    assert codes == set(re.findall(r"`(WF_[A-Z_]+)`", (PAGES / "workflow.md").read_text()))


def test_every_setting_is_in_the_reference() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(.*)` \| (.*) \|$", (PAGES / "config.md").read_text(), re.MULTILINE)
    defaults = config.Config()
    assert rows == [(name, defaults.text_of(name), config.about(name)) for name in config.KEYS]


def examples() -> list[tuple[str, str]]:
    """Every whole workflow that a page shows."""
    found = []
    for page in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]):
        blocks = re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
        whole = [block for block in blocks if re.search(r"^version: v1$", block, re.MULTILINE)]
        found += [(f"{page.relative_to(ROOT)}-{number}", block) for number, block in enumerate(whole, start=1)]
    return found


@pytest.mark.parametrize("text", [text for _, text in examples()], ids=[name for name, _ in examples()])
def test_workflows_in_the_pages_are_good(text: str, tmp_path: Path) -> None:
    path = tmp_path / "workflow.yml"
    path.write_text(text)
    assert problems_of(workflow.load(path, tmp_path)) == []
