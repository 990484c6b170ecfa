"""A record that was copied from elsewhere: it is read, and no path in it is believed."""

import json
import shutil
from pathlib import Path

import pytest

from tests.unit.commands.test_gitlab_runs import Project
from tests.unit.commands.test_gitlab_runs import project as project

pytestmark = pytest.mark.slow


def test_no_path_in_a_copied_record_is_believed(project: Project, tmp_path: Path) -> None:
    """A stranger may name any directory of the user's as the checkout, or as a store of objects."""
    project.write(gitlab="t: {script: [cat missing.yml || grep -q good word.yml]}", word="good")
    assert project.run()[0] == 0
    project.write(word="bad")
    assert project.run()[0] == 1
    own = json.loads(project.loom("diagnose", "--format", "json")[1])
    [runs] = (tmp_path / "home").rglob("runs")
    copied = shutil.copytree(runs, tmp_path / "copied" / "runs", symlinks=True)
    record = copied / own["run_id"]
    for file in record.rglob("diagnosis*.json"):
        file.unlink()
    (project.root / ".gitignore").write_text("missing.yml\n")
    (project.root / "missing.yml").touch()
    found = json.loads(project.loom("diagnose", str(record), "--format", "json")[1])
    assert (found["run_id"], found["telling_line"]) == (own["run_id"], own["telling_line"])
    assert (own["since_green"] is not None, found["since_green"], found["changed_since"]) == (True, None, None)
    assert "ignores" not in json.dumps(found)
