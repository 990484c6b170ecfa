"""What loom's own language says of the files that a workflow includes."""

from pathlib import Path

import pytest

from loom.plan.model import ResolveContext
from loom.workflow.dialects import examine
from loom.workflow.native import files

MAIN = "version: v1\nstages: [test]\njob: {stage: test, script: x}\n"


def said(root: Path, include: str, **templates: str) -> list[str]:
    for name, text in templates.items():
        (root / f".loom/templates/{name}.yml").parent.mkdir(parents=True, exist_ok=True)
        (root / f".loom/templates/{name}.yml").write_text(text)
    (root / ".loom").mkdir(exist_ok=True)
    (root / ".loom/workflow.yml").write_text(f"{MAIN}include: {include}\n")
    found = examine(Path(".loom/workflow.yml"), root, ResolveContext)
    return [f"{one.file}:{one.line}:{one.column} {one.pointer} {one.message}" for one in found.problems]


def test_files_that_are_included_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_FILES", 3)  # the workflow is one of them
    templates = {name: f".{name}: {{stage: test}}\n" for name in ("a", "b", "c")}
    assert said(tmp_path, "[{local: .loom/templates/a.yml}, {local: .loom/templates/b.yml}]", **templates) == []
    more = ".loom/workflow.yml:4:19 /include/0/local more than 3 files are included"
    assert said(tmp_path, '[{local: ".loom/templates/*.yml"}]') == [more]
