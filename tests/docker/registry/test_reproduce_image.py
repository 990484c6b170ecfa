"""`loom reproduce` with an image whose tag serves another one by now."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.docker.run.test_reproduce import WORKFLOW, Case, case
from tests.support.ci_server import Reply, gitlab_job
from tests.unit.analysis.test_server_log import gitlab

__all__ = ["case"]

pytestmark = pytest.mark.docker


def test_image_that_the_log_names_runs_though_its_tag_moved_on(
    case: Case, registry: Any, publish: Callable[..., str], remove: Callable[[str], None]
) -> None:
    name = f"{registry.host}/app:1"
    old, new = publish(registry, "app:1"), publish(registry, "app:1", content="two", forget=False)
    (case.checkout / ".gitlab-ci.yml").write_text(WORKFLOW.replace("debian:trixie-slim", name))
    job = {**gitlab_job(12, "unit"), "commit": {"id": case.commit()}}
    at = "/api/v4/projects/group%2Fproject"
    case.stub.routes[f"{at}/jobs/12"] = Reply(job)
    trace = gitlab("$ ./test", "exit code 1").replace("python:3.12", name)
    trace = trace.replace("python@sha256:" + "ab" * 32, f"{registry.host}/app@{old}")
    case.stub.routes[f"{at}/jobs/12/trace"] = Reply(trace.encode())
    found = case.reproduce(code=3)  # it has no shell
    assert {"name": f"image of the tag {name}", "a": old, "b": new} in found["differs"]
    assert found["reasons"] == []
    assert (found["verdict"], old != new) == ("not-run", True)
    logs = Path(case.environ["HOME"], ".local/state/loom/runs", found["run_id"], "logs", found["run_id"])
    assert json.loads((logs / "jobs/unit/manifest.json").read_text())["image"]["digest"].endswith(old)
    remove(name)
