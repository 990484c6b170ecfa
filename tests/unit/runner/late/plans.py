"""Plans of GitHub's jobs, made by hand: only the runner is tested."""

from typing import Any

from msgspec.structs import replace

from loom.plan.late import LateJob, LateNeed
from loom.plan.model import Job, Need, Plan, Step
from tests.unit.runner.conftest import Make, Ran

WORKFLOW = "stages: [a]\none:\n  stage: a\n  script: ['true']\n"


def step(script: str = "", **own: Any) -> Step:
    return Step(phase="script", number=0, script=script, **own)


def job(job_id: str, *steps: Step, needs: dict[str, list[str]] | None = None, **late: Any) -> Job:
    needs = needs or {}
    more = {name: late.pop(name) for name in ("secrets", "timeout_s", "variables", "no_checkout") if name in late}
    of_secrets = {secret.name: secret.name for secret in more.get("secrets", ())}
    return Job(
        id=job_id,
        name=job_id,
        stage="jobs",
        provider="host",
        when="always",
        needs=tuple(Need(job=one) for ids in needs.values() for one in ids),
        steps=tuple(
            replace(one, number=number, file="ci.yml", line=number)
            for number, one in enumerate(steps or [step("true")], 1)
        ),
        late=LateJob(
            needs=tuple(LateNeed(name=name, jobs=tuple(ids)) for name, ids in needs.items()), secrets=of_secrets, **late
        ),
        **more,
    )


def run(make: Make, *jobs: Job, code: int | None = 0, files: dict[str, str] | None = None, **options: Any) -> Ran:
    project = make(WORKFLOW, **(files or {}))
    run, tools = project.planned(**options)
    plan = Plan(workflow_path=".github/workflows/ci.yml", stages=("jobs",), jobs=jobs)
    return project.execute(replace(run, plan=plan), tools, code=code)


def states(ran: Ran, job_id: str = "one") -> dict[str, str]:
    """Return the outcome of each step, and its conclusion where that is another."""
    found = {}
    for fact in ran.facts("step_state", job_id):
        outcome, conclusion = fact["outcome"], fact["conclusion"]
        found[fact["step"].removeprefix("script/")] = outcome if outcome == conclusion else f"{outcome}/{conclusion}"
    return found
