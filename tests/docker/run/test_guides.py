"""Guides, followed word for word; the one of the cluster is in tests/kubernetes."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docker.run.conftest import Project
from tests.support.guide import follow

pytestmark = [pytest.mark.docker, pytest.mark.slow]

BUSYBOX = """\
FROM scratch
COPY busybox /bin/
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN mkdir /etc /tmp; echo root:x:0:0:root:/root:/bin/sh >/etc/passwd
"""


@pytest.fixture
def typed(project: Project) -> dict[str, str]:
    """The environment of a reader's shell, which says nothing of trust and containers."""
    return {name: value for name, value in project.environ.items() if name not in ("LOOM_TRUST", "LOOM_CONTAINER")}


@pytest.fixture
def busybox_image(tmp_path: Path, busybox: bytes) -> Iterator[None]:
    """The image `busybox:1` of a registry that tests don't reach."""
    (tmp_path / "busybox").write_bytes(busybox)
    (tmp_path / "busybox").chmod(0o755)
    (tmp_path / "Dockerfile").write_text(BUSYBOX)
    subprocess.run(["docker", "build", "-q", "-t", "busybox:1", str(tmp_path)], check=True)
    yield
    subprocess.run(["docker", "image", "rm", "busybox:1"], check=True)


@pytest.mark.parametrize("page", ["cache.md", "secrets.md", "services.md"])
@pytest.mark.usefixtures("busybox_image")
def test_a_guide_is_true(page: str, project: Project, typed: dict[str, str]) -> None:
    follow(page, project.root, typed)
