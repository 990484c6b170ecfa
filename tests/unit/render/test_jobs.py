"""The list of jobs at any width."""

import pytest

from loom.render.jobs import JobsDocument, LeftOutJob, ListedJob, job_lines

IMAGE = "registry.example.com/team/toolchain:2024-11-build"
DOCUMENT = JobsDocument(
    workflow_path=".gitlab-ci.yml",
    jobs=[
        ListedJob(id="unit (3.11)", name="unit", stage="test", runs="", image=IMAGE, image_here=False, needs=None),
        ListedJob(
            id="unit (3.12)",
            name="unit",
            stage="test",
            runs="by hand: loom run unit",
            image="node:14",
            image_here=True,
            needs=["compile", "lint", "unit-of-frontend"],
        ),
    ],
    left_out=[
        LeftOutJob(id="tagged", reason="rules[0] says never"),
        *(LeftOutJob(id=f"deploy-{number}", reason="no rule matches") for number in range(9)),
        LeftOutJob(id="nightly", reason="rules[0] says never"),
    ],
)


@pytest.mark.parametrize("columns", [120, 100, 80, 60, 59, 40, 20])
def test_no_line_is_wider_than_the_terminal(columns: int) -> None:
    lines = job_lines(DOCUMENT, columns)
    assert max(map(len, lines)) <= columns
    text = " ".join("\n".join(lines).split())
    assert "unit (3.12)" in text  # what is typed after `loom run`
    assert text.endswith("deploy-8: no rule matches")
    assert "left out: tagged, nightly: rules[0] says never" in text
    if columns < 60:  # several lines a job have every word
        assert "test; node:14 (here); needs compile, lint, unit-of-frontend; by hand: loom run unit" in text


def test_what_is_least_needed_is_cut_first() -> None:
    assert job_lines(DOCUMENT, 100)[1:3] == [
        "test   unit (3.11)  registry.example.com/t…24-11-build (to pull)",
        "test   unit (3.12)  node:14 (here)                                compi…tend  by hand: loom run unit",
    ]


def test_a_program_reads_whole_lines() -> None:
    lines = job_lines(DOCUMENT, None)
    assert lines[1] == f"test   unit (3.11)  {IMAGE} (to pull)"
    assert len(lines) == 5
