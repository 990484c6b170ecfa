"""What `-v` adds: the things a run was made of."""

import pytest

from tests.docker.run.conftest import Project

pytestmark = pytest.mark.docker


def test_verbose_names_engine_snapshot_image_and_mounts(project: Project) -> None:
    project.workflow("version: v1\nstages: [a]\nj: {stage: a, script: [ls]}\n")
    out = project.run("-v").out
    assert "  engine " in out
    assert ", 2 files, " in out
    assert "image debian:trixie-slim is sha256:" in out
    assert "mount_mode=bind_mount" in out
    assert "  engine " not in project.run().out
