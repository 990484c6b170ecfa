"""Render a plan: complete JSON, or YAML for reading."""

from __future__ import annotations

from typing import Any, Literal

import yaml

from loom import __version__
from loom.plan.model import Job, Plan
from loom.record.documents import Document
from loom.render.jobs import LeftOutJob
from loom.render.output import json_text
from loom.util import jsons


class PlanDocument(Document):
    """The document of `loom compile --json`. `jobs` has every key of a job, as the reference of the workflow describes it."""

    schema_version: Literal["loom.plan.v1"] = "loom.plan.v1"
    kind: Literal["loom-plan"] = "loom-plan"
    loom_version: str
    workflow_path: str
    stages: list[str]
    jobs: list[dict[str, Any]]
    left_out: list[LeftOutJob]


def plan_document(plan: Plan, mount_mode: str) -> dict[str, Any]:
    """Convert the plan to JSON values with every key, in plan order. Secrets appear as references only."""
    return {
        "schema_version": "loom.plan.v1",
        "kind": "loom-plan",
        "loom_version": __version__,
        "workflow_path": plan.workflow_path,
        "stages": list(plan.stages),
        "jobs": [job_document(job, mount_mode) for job in plan.jobs],
        "left_out": [{"id": item.id, "reason": item.reason} for item in plan.left_out],
    }


def job_document(job: Job, mount_mode: str) -> dict[str, Any]:
    shape: dict[str, Any] = jsons.decode(jsons.encode_line(job))
    for unordered in (shape["retry"]["when"], shape["retry"]["exit_codes"], shape["allow_failure"]["exit_codes"]):
        unordered.sort()
    del shape["resources"]["sources"]  # they do not affect the run; `--explain` shows them
    del shape["sources"]
    for step in shape["steps"]:
        step.pop("literal", None)
    in_container = job.image is not None
    shape["working_directory"] = "/workspace" if in_container else None
    shape["mounts"] = [{"source": "workspace", "target": "/workspace", "mode": mount_mode}] if in_container else []
    return shape


def plan_text(plan: Plan, mount_mode: str, *, form: str) -> str:
    """Convert the plan to JSON if that is the form, else to YAML."""
    return json_text(plan_document(plan, mount_mode)) if form == "json" else plan_yaml(plan, mount_mode)


def plan_yaml(plan: Plan, mount_mode: str = "auto") -> str:
    """Convert the plan without unset values, for reading."""
    document = plan_document(plan, mount_mode)
    for job in document["jobs"]:
        if job["retry"]["max"] == 0:
            del job["retry"]
        job |= {"steps": _shortened(job["steps"]), "late": _shortened(job["late"])}
    options: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "width": 110}
    return str(yaml.dump(_drop_unset(document), Dumper=_Dumper, **options))


def _shortened(value: Any) -> Any:
    """Return a value for reading: without empty texts, and without the contexts that all jobs of a run share."""
    if isinstance(value, dict):
        contexts = value.get("contexts")
        own = (
            {"contexts": {name: contexts.get(name) for name in ("inputs", "matrix")}}
            if isinstance(contexts, dict)
            else {}
        )
        return {key: _shortened(item) for key, item in (value | own).items() if item != ""}
    return [_shortened(item) for item in value] if isinstance(value, list) else value


def _drop_unset(value: Any) -> Any:
    """Remove unset values, except `needs: []`, which means that the job waits for nothing."""
    if isinstance(value, dict):
        kept = {key: _drop_unset(item) for key, item in value.items()}
        return {
            key: item
            for key, item in kept.items()
            if (item is not None and item is not False and item != {} and item != [])
            or (key == "needs" and item is not None)
        }
    if isinstance(value, list):
        return [_drop_unset(item) for item in value]
    return value


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """A YAML dumper without aliases: a value that occurs twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: Any, text: str) -> Any:
    readable = "\n" in text and not any(line.endswith(" ") or "\t" in line for line in text.split("\n"))
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if readable else None)


_Dumper.add_representer(str, _text)
