"""`loom compile`: the plan, and the origins of its values."""

from __future__ import annotations

import json
import sys
from typing import Any

from loom.commands.plan.plan_run import planner_of
from loom.commands.project import open_project
from loom.commands.project.trusting import settle_objects
from loom.errors import RequestError
from loom.plan.model import JobSelection, Plan
from loom.plan.provenance import sources
from loom.record.request import Request
from loom.render.output import print_kind
from loom.render.plan import plan_text
from loom.status import ExitCode
from loom.util.budget import LOOKING_S, limited
from loom.util.units import meant
from loom.workflow.loaded import Loaded


@limited(LOOKING_S)
def compile_(*, form: str, explain: str | None, **given: Any) -> int:
    request = Request.of(given)
    project = open_project(request.settings)
    settle_objects(project, can_ask=form != "json")
    planner = planner_of(project, request)
    plan, _ = planner.made()
    if explain is not None:
        return _explain(planner.workflow, plan, explain, planner.selection, as_json=form == "json")
    sys.stdout.write(plan_text(plan, project.config.mount_mode, form=form))
    if not plan.jobs:
        sys.stderr.write("nothing would run; `left_out` in the plan says why\n")
    return ExitCode.OK


def _explain(loaded: Loaded, plan: Plan, wanted: str, selection: JobSelection, *, as_json: bool) -> int:
    jobs = [job for job in plan.jobs if wanted in (job.id, job.name)]
    if not jobs:
        reason = next((item.reason for item in plan.left_out if item.id == wanted), None)
        if reason is not None:
            raise RequestError(
                f"{wanted} is not in the plan: {reason}",
                hint=f"Name it to plan it anyway: loom compile {wanted} --explain {wanted}",
            )
        raise RequestError(f"the plan has no job {wanted}{meant(wanted, [job.id for job in plan.jobs])}")
    documents = []
    for job in jobs:
        rows = sources(loaded, job, selection)
        documents.append({"id": job.id, "values": rows})
        if not as_json:
            width = min(40, max(len(row.key) for row in rows))
            for row in rows:
                value = row.value if isinstance(row.value, str) else json.dumps(row.value)
                shown = value.replace("\n", "⏎ ")
                shown = shown if len(shown) <= 60 else shown[:57] + "..."
                print(f"{row.key:<{width}}  {shown:<30}  {row.by}" + (f" ({row.position})" if row.position else ""))
    if as_json:
        print_kind("plan-explanation", {"jobs": documents})
    return ExitCode.OK
