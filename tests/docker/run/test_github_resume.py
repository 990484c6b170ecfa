"""A workflow of GitHub's that fails inside a composite action: a command in it, and a resume."""

from collections.abc import Iterator

import pytest

from .conftest import Project
from .test_debug import clean

pytestmark = pytest.mark.docker

WORKFLOW = """\
on: push
jobs:
  build:
    runs-on: ubuntu-latest
    outputs: {v: "${{ steps.s.outputs.v }}"}
    steps:
      - id: s
        run: echo "v=7" >> "$GITHUB_OUTPUT"
  after:
    needs: build
    runs-on: ubuntu-latest
    env: {J: "${{ needs.build.outputs.v }}"}
    steps:
      - uses: actions/checkout@v4
      - id: first
        run: |
          echo A=1 >> $GITHUB_ENV; echo /opt/x/bin >>$GITHUB_PATH
          echo "out=o w" >> $GITHUB_OUTPUT
      - id: act
        uses: ./act
        with: {who: "${{ steps.first.outputs.out }}"}
      - run: echo "$A $J ${{ steps.act.outputs.r }} ${{ steps.first.outcome }} ${PATH%%:*}"
"""
ACTION = """\
inputs: {who: {required: true}, other: {default: "d${{ github.job }}"}}
outputs: {r: {value: "${{ steps.in.outputs.r }}"}}
runs:
  using: composite
  steps:
    - run: echo "r=${{ inputs.who }}${{ inputs.other }}" >> $GITHUB_OUTPUT
      shell: bash
      id: in
    - run: test -e mended; echo "${{ steps.in.outputs.r }}"
      shell: bash
      env: {X: "${{ inputs.who }}"}
"""


@pytest.fixture
def failing(project: Project) -> Iterator[Project]:
    project.write(".github/workflows/ci.yml", WORKFLOW)
    project.write("act/action.yml", ACTION)
    project.commit()
    yield project
    clean(project)


def test_a_job_goes_on_inside_a_composite_action_with_all_that_was_said_before(failing: Project) -> None:
    ran = failing.run("--keep", "on-failure")
    assert ran.code == 1, ran.out + ran.err
    shown = 'echo "$A $J $X $GITHUB_JOB $PATH"; test -s "$GITHUB_EVENT_PATH" && touch mended'
    inside = failing.loom("exec", "last", "after", "--", "sh", "-c", shown)
    assert inside.code == 0, inside.err
    assert inside.out.startswith("1 7 o w after /opt/x/bin:/usr/")
    again = failing.loom("resume")
    assert again.code == 0, again.out + again.err
    assert again.output("after", "script/05") == ["o wdafter"]
    assert again.output("after", "script/07") == ["1 7 o wdafter success /opt/x/bin"]


def test_a_job_goes_on_at_the_step_whose_action_it_has_written(project: Project) -> None:
    """Of several, at the one in which it failed; its action is read again."""
    steps = "- {shell: sh, run: echo in $W}\n  - {shell: sh, run: test -e $W}"
    project.write("written", f"runs:\n  using: composite\n  steps:\n  {steps}\n")
    project.write(
        ".github/workflows/ci.yml",
        """\
on: push
jobs:
  one:
    runs-on: ubuntu-latest
    env: {W: first}
    steps:
      - uses: actions/checkout@v4
      - run: mkdir a b; cp written a/action.yml; cp written b/action.yml; touch first
      - {uses: ./a}
      - {uses: ./b, env: {W: second}}
      - {uses: ./a, if: always()}
""",
    )
    project.commit()
    ran = project.run("--keep", "on-failure")
    assert ran.code == 1, ran.out + ran.err
    assert project.loom("exec", "last", "one", "--", "sh", "-c", 'touch "$W"; test "$W" = second').code == 0
    again = project.loom("resume")
    assert again.code == 0, again.out + again.err
    assert "goes on from script/04" in again.out
    clean(project)


def test_a_job_whose_written_action_fails_at_its_end_goes_on_where_that_is_used(project: Project) -> None:
    project.write("end.js", "process.exit(require('fs').existsSync('mended') ? 0 : 1)")
    project.write("written", "runs: {using: node20, main: main.js, post: end.js}\n")
    steps = (
        "- {uses: actions/checkout@v4}\n      - run: mkdir a; cp written a/action.yml; cp end.js a; touch a/main.js\n"
    )
    project.write(
        ".github/workflows/ci.yml",
        f"on: push\njobs:\n  one:\n    runs-on: ubuntu-latest\n    steps:\n      {steps}      - uses: ./a\n",
    )
    project.commit()
    ran = project.run("--keep", "on-failure")
    assert ran.code == 1, ran.out + ran.err
    assert project.loom("exec", "last", "one", "--", "touch", "mended").code == 0
    again = project.loom("resume")
    assert again.code == 0, again.out + again.err
    assert "goes on from script/03" in again.out
    clean(project)
