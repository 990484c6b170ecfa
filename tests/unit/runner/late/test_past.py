"""The variables that a step had in an earlier run are those of its record."""

from msgspec.structs import replace

from loom.plan.model import Plan
from loom.record import past_run
from loom.runner.late.past import variables_at
from tests.unit.runner.conftest import Make

from .plans import WORKFLOW, job, step


def test_the_variables_of_a_step_of_an_earlier_run(make: Make) -> None:
    project = make(WORKFLOW)
    jobs = (
        job("zero", step("echo o=zero >>$GITHUB_OUTPUT", key="s"), outputs={"o": "${{ steps.s.outputs.o }}"}),
        job(
            "one",
            step("echo A=first >>$GITHUB_ENV; echo /added >>$GITHUB_PATH"),
            step("true", env={"B": "${{ env.A }}-${{ needs.zero.outputs.o }}"}),
            step("true", env={"B": "${{ fromJSON(env.A) }}"}),
            needs={"zero": ["zero"]},
            env={"J": "j"},
        ),
    )
    plan = Plan(workflow_path=".github/workflows/ci.yml", stages=("jobs",), jobs=jobs)
    run, tools = project.planned()
    project.execute(replace(run, plan=plan), tools, code=1)
    past = past_run.PastRun(project.store.find("last", repo_root=project.root)).job("one")
    second, third = past.job.steps[1:]
    found, lost = variables_at(past, second, {}, project_dir="/there", event_path="/e/event.json")
    assert lost == []
    assert {name: found[name] for name in ("A", "B", "J", "GITHUB_WORKSPACE", "GITHUB_EVENT_PATH")} == {
        "A": "first",
        "B": "first-zero",
        "J": "j",
        "GITHUB_WORKSPACE": "/there",
        "GITHUB_EVENT_PATH": "/e/event.json",
    }
    assert found["GITHUB_RUN_ID"] == past.run.run_id
    assert found["PATH"].startswith("/added:")
    invalid = variables_at(past, third, {}, project_dir="/there", event_path="/e/event.json")
    assert invalid == ({"A": "first"}, [])
