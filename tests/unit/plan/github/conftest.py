"""Plans of GitHub's workflows, written as files of a project."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from loom.config import Config
from loom.config.values import GitHubSettings
from loom.plan.model import JobSelection, Plan, ResolveContext
from loom.plan.resolve import resolve
from loom.workflow.dialects import load
from tests.support.plans import as_declared

SHA = "a" * 40
PUSH = {
    "LOOM_EVENT": "push",
    "CI_COMMIT_SHA": SHA,
    "CI_COMMIT_BRANCH": "main",
    "CI_COMMIT_BEFORE_SHA": "b" * 40,
    "CI_PIPELINE_SOURCE": "push",
    "CI_DEFAULT_BRANCH": "main",
    "CI_PROJECT_PATH": "me/project",
}
Planned: TypeAlias = Callable[..., Plan]


@pytest.fixture
def planned(tmp_path: Path) -> Planned:
    """Write files (one without a name is `ci.yml`) and plan them for an event."""

    def plan(
        files: str | Mapping[str, str],
        *jobs: str,
        known: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
        github: Mapping[str, Any] | None = None,
        **context: Any,
    ) -> Plan:
        write(tmp_path, files)
        settings = Config(github=GitHubSettings(**(github or {})), **(config or {}))
        facts = ResolveContext(predefined={**PUSH, **(known or {})}, config=settings, **context)
        workflows = load(tmp_path / ".github/workflows", tmp_path, lambda: facts)
        return as_declared(resolve(workflows, JobSelection(jobs=jobs, container=True), facts))

    return plan


def write(root: Path, files: str | Mapping[str, str]) -> None:
    for name, text in {"ci.yml": files}.items() if isinstance(files, str) else files.items():
        path = root / (name if "/" in name else f".github/workflows/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
