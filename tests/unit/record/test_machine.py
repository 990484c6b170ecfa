"""What runs and commands print for GitHub, for GitLab, and of two runs."""

import re

from .conftest import Make


def test_what_a_job_prints_is_no_command_to_github(make: Make) -> None:
    project = make(
        "version: v1\nstages: [s]\na:\n  stage: s\n  script: ['echo ::error::forged; echo src/x.py:7: bad; exit 1']\n",
        **{"src/x.py": "x\n" * 7},
    )
    lines = project.loom("run", "--local", "--format", "github", code=1).splitlines()
    stop = next(line for line in lines if line.startswith("::stop-commands::"))
    go_on = f"::{stop.removeprefix('::stop-commands::')}::"
    assert lines.index(stop) < lines.index("| ::error::forged") < lines.index(go_on)
    annotation = "::error file=src/x.py,line=7,title=failed%3A job a%2C step script/01 (.loom/workflow.yml%3A5)"
    assert [line for line in lines if line.startswith("::error")] == [
        line for line in lines if line.startswith(annotation)
    ]
    assert lines.index("::endgroup::") < next(number for number, line in enumerate(lines) if annotation in line)
    text = project.loom("run", "--local", "--format", "gitlab", code=1)
    assert re.search(r"section_start:\d+:loom_a\s", text)
    assert re.search(r"section_end:\d+:loom_a\s", text)


def test_diff_names_the_file_that_made_the_difference(make: Make) -> None:
    project = make(
        "version: v1\nstages: [s]\na:\n  stage: s\n  script: ['cat data; date; exit $(cat data)']\n", data="0\n"
    )
    project.loom("run", "--local")
    first = project.last().run_id
    (project.root / "data").write_text("3\n")
    project.loom("run", "--local", code=1)
    text = project.loom("diff", first)
    assert "first difference: the tree: data" in text
    assert "differs: data" in text
    assert "a: success / failure (3)" in text
    assert "script/01, line 1:" in text
    project.loom("diff", first, "nothing", code=2)
