"""Which entries of a script are one step, since only together they are commands."""

import shutil

import pytest

from loom.plan.gitlab import scripts
from loom.plan.gitlab.scripts import joined
from loom.plan.model import Step


@pytest.mark.parametrize(
    ("entries", "sizes"),
    [
        (["echo if", "echo 'a b'", "it=$(x)"], [1, 1, 1]),
        (["if true; then", "echo x", "fi", "echo y"], [3, 1]),
        (["f() {", "(a", "b)", "}", "f"], [4, 1]),
        (["cat <<X", "it's", "X", "y"], [3, 1]),
        (['echo "a', 'b"', "c"], [1, 1, 1]),  # nor here: its quotes end the text
        (["true &&", "x"], [2]),
        (["while read x", "do echo", "done", "x"], [1, 1, 1, 1]),  # an `echo` stands between them: `do` is not read
        (["for i in 1; do", "x"], [1, 1]),  # never ends
        (["if (Test-Path x) {", "y", "}"], [1, 1, 1]),  # PowerShell
        (["case $x in", "a) y;;", "esac"], [1, 1, 1]),  # nor here, since the runner's `echo` is no pattern
        (["echo ${x:-'it}", "y"], [1, 1]),
    ],
)
def test_entries_that_only_together_are_commands_are_one_step(entries: list[str], sizes: list[int]) -> None:
    steps = [Step(phase="script", number=n, script=text) for n, text in enumerate(entries, start=1)]
    found = list(joined(steps))
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    assert [step.number for step in found] == [start + 1 for start in starts]
    for step, start, size in zip(found, starts, sizes, strict=True):
        assert [line for line in entries[start : start + size] if line in step.script] == entries[start : start + size]
        assert step.script.count("echo '$ ") == size - 1


def test_the_entries_of_after_script_are_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [
        Step(phase="before_script", number=1, script="if true"),
        Step(phase="script", number=1, script="then\nx"),
        Step(phase="script", number=2, script="{"),
        Step(phase="after_script", number=1, script="fi; }"),
    ]
    assert list(joined(steps)) == steps
    steps[-2] = Step(phase="script", number=2, script="fi")
    first, _ = joined(steps)
    assert (first.id, first.script) == (
        "before_script/01",
        "if true\necho '$ then # collapsed multi-line command'\nthen\nx\necho '$ fi'\nfi",
    )
    monkeypatch.setattr(shutil, "which", lambda _: None)
    scripts._read.cache_clear()
    assert list(joined(steps)) == steps
    scripts._read.cache_clear()
