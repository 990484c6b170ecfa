"""A workflow from text, resolved: what every test of the plan begins with."""

from collections.abc import Callable
from pathlib import Path

import pytest

from loom.config import Config
from loom.plan.model import JobSelection, Plan, ResolveContext
from loom.plan.resolve import resolve
from tests.support import native as workflow
from tests.support.plans import as_declared

HEAD = "version: v1\nstages: [build, test, deploy]\n"


def _load(tmp_path: Path, text: str, *, head: str = HEAD) -> workflow.Workflow:
    path = tmp_path / ".loom/workflow.yml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(head + text)
    return workflow.load(path, tmp_path)


def _plan(
    tmp_path: Path,
    text: str,
    *,
    predefined: dict[str, str] | None = None,
    changed: list[str] | None = None,
    files: list[str] | None = None,
    config: Config | None = None,
    head: str = HEAD,
    **selection: object,
) -> Plan:
    context = ResolveContext(
        config=config or Config(),
        predefined=predefined or {},
        changed=lambda _: changed,
        files=lambda: files or [],
    )
    return as_declared(resolve(_load(tmp_path, text, head=head), JobSelection(**selection), context))  # type: ignore[arg-type]


@pytest.fixture
def plan() -> Callable[..., Plan]:
    return _plan
