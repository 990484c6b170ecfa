"""Plans in which a job has become several."""

from msgspec.structs import replace

from loom.plan.github.growth import grown, grown_as
from loom.plan.late import LateCaller, LateJob, LateNeed
from loom.plan.model import Job, Need, Plan


def job(job_id: str, *needs: str, **late: object) -> Job:
    own = LateJob(needs=tuple(LateNeed(name=name, jobs=(name,)) for name in needs), **late)  # type: ignore[arg-type]
    wanted = tuple(Need(job=name) for name in needs)
    return Job(id=job_id, name=job_id, stage="s", provider="host", needs=wanted, steps=(), late=own)


def several(old: Job) -> tuple[Job, ...]:
    assert old.late is not None
    late = replace(old.late, strategy={}, of=old.id, contexts={"matrix": {"n": 1.0}, "strategy": {"job-index": 0.0}})
    return tuple(replace(old, id=f"{old.id}.{n}", matrix={"n": n}, late=late) for n in ("a", "b"))


def plan(*jobs: Job) -> Plan:
    return Plan(workflow_path="w", stages=("s",), jobs=jobs)


MANY = job("many", strategy={"matrix": "${{ x }}"}, env={"E": "old"})


def test_those_that_need_the_job_need_all_of_them() -> None:
    caller = LateCaller(needs=(LateNeed(name="call", jobs=("many",)),))
    found = grown(plan(MANY, job("after", "many", caller=caller), job("other")), "many", several(MANY))
    assert [each.id for each in found.jobs] == ["many.a", "many.b", "after", "other"]
    after = found.job("after")
    assert [need.job for need in after.needs or ()] == ["many.a", "many.b"]
    assert after.late is not None
    assert after.late.needs[0].jobs == ("many.a", "many.b")
    assert after.late.caller is not None
    assert after.late.caller.needs[0].jobs == ("many.a", "many.b")


def test_a_present_plan_has_the_jobs_of_the_earlier_run_as_they_are_now() -> None:
    before = grown(plan(MANY), "many", several(MANY))
    now = job("many", strategy={"matrix": "${{ x }}"}, env={"E": "new"})
    found = grown_as(plan(now, job("after", "many")), before)
    assert [each.id for each in found.jobs] == ["many.a", "many.b", "after"]
    late = found.job("many.b").late
    assert late is not None
    assert (late.env, late.strategy, late.contexts["matrix"]) == ({"E": "new"}, {}, {"n": 1.0})
    assert grown_as(plan(now), plan(now)) == plan(now)
