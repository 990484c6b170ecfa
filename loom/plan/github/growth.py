"""Plans that grow while they run: a job becomes several by a matrix of another job's output."""

from __future__ import annotations

from typing import TypeVar

from msgspec.structs import replace

from loom.plan.late import LateCaller, LateJob, LateNeed
from loom.plan.model import Job, Plan


def grown(plan: Plan, job_id: str, several: tuple[Job, ...]) -> Plan:
    """Return the plan with these jobs in place of one, also where others need it."""
    ids = tuple(job.id for job in several)

    def needing(job: Job) -> Job:
        if job.late is None or not any(need.job == job_id for need in job.needs or ()):
            return job
        needs = [
            replace(need, job=one) for need in job.needs or () for one in (ids if need.job == job_id else (need.job,))
        ]
        return replace(job, needs=tuple(needs), late=_needing(job.late, job_id, ids))

    jobs = (one for job in plan.jobs for one in (several if job.id == job_id else (needing(job),)))
    return replace(plan, jobs=tuple(jobs))


LateType = TypeVar("LateType", LateJob, LateCaller)


def _needing(late: LateType, job_id: str, ids: tuple[str, ...]) -> LateType:
    def need(one: LateNeed) -> LateNeed:
        jobs = tuple(found for own in one.jobs for found in (ids if own == job_id else (own,)))
        return replace(one, jobs=jobs, inside=tuple(map(need, one.inside)))

    caller = None if late.caller is None else _needing(late.caller, job_id, ids)
    return replace(late, needs=tuple(map(need, late.needs)), caller=caller)


def grown_as(plan: Plan, before: Plan) -> Plan:
    """Return the plan with what its jobs became in an earlier run, whose plan was `before`."""
    for job in plan.jobs:
        if job.late is None or not job.late.strategy:
            continue
        several = []
        for old in before.jobs:
            if old.late is not None and old.late.of == job.id:
                own = {name: old.late.contexts.get(name) for name in ("matrix", "strategy")}
                late = replace(old.late, env=job.late.env, outputs=job.late.outputs, condition=job.late.condition)
                late = replace(
                    late, contexts={**job.late.contexts, **own}, needs=job.late.needs, caller=job.late.caller
                )
                several.append(replace(job, id=old.id, matrix=old.matrix, late=late))
        if several:
            plan = grown(plan, job.id, tuple(several))
    return plan
