"""Outputs of earlier jobs on GitHub, by what the log shows of the job's steps."""

from loom.analysis.server_log import outputs_in_log, used_outputs
from loom.plan.late import LateJob
from loom.plan.model import Job, Step

VERSION, LEVEL, KEY = (("build", name) for name in ("version", "level", "key"))
STEP = Step(
    phase="script",
    number=1,
    script='echo start\nmake V=${{ needs.build.outputs.version }} "${{ github.sha }}" L=${{needs.build.outputs.level}}\n'
    "a ${{ needs.build.outputs.key }} z",
    env={"KEY": "${{ needs.build.outputs.key }}", "OTHER": "${{ github.sha }}"},
)
JOB = Job(id="test", name="test", stage="", steps=(STEP,), provider="docker", late=LateJob())


def test_values_are_those_that_the_log_shows() -> None:
    lines = ["echo start", 'make V=1.2 (rc) "1ecfd275" L=', "shell: bash", "env:", "  KEY: a b", "  OTHER: x"]
    assert outputs_in_log(JOB, lines) == {VERSION: "1.2 (rc)", LEVEL: "", KEY: "a b"}


def test_masked_value_and_line_that_is_not_shown_are_not_known() -> None:
    assert outputs_in_log(JOB, ["  KEY: ***", "make V=1", "a b y", "b c z"]) == {}
    assert used_outputs(JOB) == {VERSION, LEVEL, KEY}
