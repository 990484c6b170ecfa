"""Guides, followed word for word; one in a cluster is in tests/kubernetes."""

from __future__ import annotations

import pytest

from tests.docker.run.conftest import Project
from tests.support.guide import follow

pytestmark = [pytest.mark.docker, pytest.mark.slow]


@pytest.fixture
def typed(project: Project) -> dict[str, str]:
    """The environment of a reader's shell, which no test has prepared for secrets."""
    return {name: value for name, value in project.environ.items() if name != "LOOM_TRUST"}


@pytest.mark.parametrize("page", ["cache.md"])
def test_a_guide_is_true(page: str, project: Project, typed: dict[str, str]) -> None:
    follow(page, project.root, typed)
