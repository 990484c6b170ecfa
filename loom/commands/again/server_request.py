"""The request of `loom run` that stands for a server's pipeline: its event, its variables and its file."""

from __future__ import annotations

import glob
import json
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from loom.commands.again import server_artifacts
from loom.commands.again.server_job import ServerJob
from loom.commands.plan.plan_run import plan_run
from loom.commands.run.children import child_file, includes_of
from loom.commands.servers import RemotePipeline
from loom.errors import RequestError
from loom.plan.variables import EVENTS
from loom.record.request import Request
from loom.util import atomic

_EVENTS = {name: name for name in EVENTS} | {"merge_request_event": "merge_request"}


def request_of(there: ServerJob, pipeline: RemotePipeline, request: Request) -> Request:
    """Return the request as that of the pipeline; variables and inputs of `request` win."""
    if pipeline.payload is not None:
        event_file = there.directory / "event.json"
        atomic.write(event_file, json.dumps(pipeline.payload).encode(), mode=0o600)
        request = replace(request, event_file=str(event_file))
    event = "tag" if there.job.is_tag else _EVENTS.get(pipeline.source, "push")
    request = replace(request, var=(*_variables(there, pipeline), *request.var), event=event)
    if pipeline.above is not None:
        return _child_request(there, request, *pipeline.above)
    if pipeline.source == "parent_pipeline":
        raise RequestError(
            f"{there.job.url} is of a child pipeline, and the server does not give the one that started it",
            hint="name a job of that one: its trigger runs the child pipeline here",
            code="JOB_UNKNOWN",
        )
    if there.address.kind == "github" or not pipeline.workflow or request.inputs:
        return replace(request, workflow=pipeline.workflow) if pipeline.workflow else request
    path, _, project = pipeline.workflow.partition("@")
    if "://" in path:
        return _including(there, request, [{"remote": path}])
    name, _, ref = project.partition(":")
    of_project = {"project": name, "file": path, **({"ref": ref} if ref else {})}
    return _including(there, request, [of_project if project else {"local": path}])


def _variables(there: ServerJob, pipeline: RemotePipeline) -> Iterator[str]:
    """Yield the variables that were given to the pipeline, and those that only the server can know, as `NAME=value`."""
    of_gitlab = there.address.kind == "gitlab" and pipeline.source not in _EVENTS
    source = {"CI_PIPELINE_SOURCE": pipeline.source} if of_gitlab else {}
    for name, value in {**pipeline.variables, **source, **pipeline.known}.items():
        yield f"{name}={value}"


def _including(there: ServerJob, request: Request, includes: Sequence[dict[str, Any]]) -> Request:
    """Return the request with a file that includes others, whatever their names."""
    whole = there.directory / "pipeline.gitlab-ci.yml"
    atomic.write(whole, json.dumps({"include": includes}).encode())
    return replace(request, workflow=str(whole))


def _child_request(there: ServerJob, request: Request, number: int, name: str) -> Request:
    """Return the request with the files, inputs and variables that job `name` of pipeline `number` gave its child."""
    folder = there.directory / "above"
    shutil.rmtree(folder, ignore_errors=True)
    folder.joinpath("files").mkdir(parents=True)
    above = replace(there, job=replace(there.job, pipeline=number), directory=folder)
    asked = replace(request, names=(glob.escape(name),), var=(), dry_run=True)
    _, run = plan_run(request_of(above, there.server.pipeline(above.job), asked), ask=False)
    trigger = next((each for each in run.plan.jobs if each.title == name and each.trigger is not None), None)
    if trigger is None or trigger.trigger is None:
        raise RequestError(f"{name} of pipeline {number}, which started this one, starts none here", code="JOB_UNKNOWN")
    given = (f"{key}={one}" for key, one in trigger.trigger.variables.items())
    request = replace(request, var=(*given, *request.var))
    file = trigger.trigger.files[0]
    if file.job is None:
        return _including(there, request, includes_of(trigger.trigger))
    producer = run.plan.job(file.job)
    before = {each.name: each for each in there.server.jobs_before(above.job)}
    if (of_server := before.get(producer.title)) is not None:
        server_artifacts.bring(above, producer, of_server)
    found = child_file(file, trigger.id, folder, above.archive_of, folder / "files")
    if found.is_symlink() or not found.is_file():
        raise RequestError(f"{name}: the artifacts of {producer.name} have no file {file.path}", code="WF_NOT_FOUND")
    inputs = (f"{key}={one if isinstance(one, str) else json.dumps(one)}" for key, one in file.inputs.items())
    return replace(
        request, workflow=str(found.rename(folder / "pipeline.gitlab-ci.yml")), inputs=(*inputs, *request.inputs)
    )
