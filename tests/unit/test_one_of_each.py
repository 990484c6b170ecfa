"""What exists once: a second way to do it is found here before it is read by anybody."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "loom"


@pytest.mark.parametrize(
    ("pattern", "only_in"),
    [
        pytest.param(
            r"\bdraft\b.*\.replace\(|os\.replace|mkstemp|\.tmp\"",
            {"util/atomic.py", "cli/boundary.py"},
            id="atomic write",
        ),
        pytest.param(r"zip\(.*widths|max\(len\((row|line)\[|width = max\(len", {"render/output.py"}, id="table"),
        pytest.param(
            r"json\.dumps\(.*indent", {"render/output.py", "workflow/github/expressions.py"}, id="JSON for people"
        ),
        pytest.param(r"\"(KiB|kB)\"", {"util/units.py"}, id="size"),
        pytest.param(r"\bmin ago|\bh\b.* ago", {"util/units.py"}, id="age"),
        pytest.param(r"(''|\"\") if .* == 1 |else ['\"]s['\"]|\w\(s\) ", {"plan/github/steps.py"}, id="plural"),
        # ... but for words of GitHub's runner.
        pytest.param(r"set_wakeup_fd|signal\.signal\(", {"cancel.py", "cli/__init__.py"}, id="signals"),
        pytest.param(r"killpg|\.terminate\(\)", {"util/processes.py"}, id="ending a process"),
        pytest.param(r"fnmatch|root\.glob\(", {"util/globs.py"}, id="globs"),
        pytest.param(r"orjson", set(), id="JSON for loom"),
        pytest.param(r"msgspec\.convert|json\.decode\(.*type=", {"util/typed.py"}, id="values with a type"),
    ],
)
def test_only_one_place_does_it(pattern: str, only_in: set[str]) -> None:
    found = {str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py") if re.search(pattern, path.read_text())}
    assert found == only_in


DIALECTS = {"Entry", "LoadOutcome", "Shapes", "Variable"}
"""The same thing of two languages of workflow files."""
WRITTEN_AND_PLANNED = {"Build", "Cache", "Job", "Ready", "Resources", "Rule", "Service"}
"""A part of a workflow, as a person wrote it and as it will run."""


def test_a_public_class_name_means_one_thing() -> None:
    found = Counter(
        name
        for path in ROOT.rglob("*.py")
        for name in re.findall(r"^class ([A-Za-z]\w*)", path.read_text(), re.MULTILINE)
    )
    assert {name for name, count in found.items() if count > 1} <= DIALECTS | WRITTEN_AND_PLANNED
